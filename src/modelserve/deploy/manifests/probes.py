"""How a cluster finds out whether a server has started, may be asked, and is alive: docs/operating.md. Pure."""

from __future__ import annotations

import math
from typing import Any

from modelserve.deploy.manifests.workload import Workload

STARTUP_S = 1800
"""A model of 140 GB, at 100 MB a second, is here in 24 minutes."""
_LOOK_S = 5
_READY, _LIVE = "/v2/health/ready", "/v2/health/live"
"""Of the Open Inference Protocol: Triton's paths and ours."""


def startup_s(workload: Workload) -> int:
    return int(workload.spec.get("startup_timeout", STARTUP_S))


def of(port: int, startup_s: int = STARTUP_S) -> dict[str, Any]:
    """The fields of a container. Until the model answers, only the first one counts, so that no download is taken for
    a server that hangs."""
    return _three(_READY, port, startup_s)


def of_triton(port: int, startup_s: int) -> dict[str, Any]:
    """It answers nothing before its models are loaded. From then on only readiness is about the models: one that was
    unloaded is no reason to start Triton anew."""
    return _three(_LIVE, port, startup_s)


def _three(started: str, port: int, startup_s: int) -> dict[str, Any]:
    return {
        "startupProbe": _get(started, port, _LOOK_S, math.ceil(startup_s / _LOOK_S)),
        "readinessProbe": _get(_READY, port, _LOOK_S, 2),
        "livenessProbe": _get(_LIVE, port, 10, 3),
    }


def _get(path: str, port: int, period_s: int, failures: int) -> dict[str, Any]:
    """The server answers while it computes; a container that is held back by its cpu limit may take a second or two."""
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": period_s,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
