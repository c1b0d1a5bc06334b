"""How a pod's log is asked for, and what the refusals mean. The thread of whoever asks; knows no run."""

from __future__ import annotations

import math
from typing import Any

from modelserve.deploy.kubernetes.cluster import Json
from modelserve.errors import TargetRefused

_SERVERS = ("modelserve", "kserve-container")
"""The server's container, ours and KServe's; a pod with neither has it first."""
_NOT_YET = ("is waiting to start", "is not available")
"""What the API and the kubelet say of a container that has no log yet."""


def container_of(pod: Json, wanted: str) -> str:
    """The name of the container that is meant; "" for the server's."""
    names = [str(one["name"]) for one in pod["spec"].get("containers") or ()]
    return wanted or next((name for name in _SERVERS if name in names), names[0] if names else "")


def restarts(pod: Json, container: str) -> int:
    status = pod.get("status") or {}
    kinds = ("containerStatuses", "initContainerStatuses")
    found: list[dict[str, Any]] = [one for kind in kinds for one in status.get(kind) or ()]
    return sum(int(one.get("restartCount") or 0) for one in found if one.get("name") == container)


def last(tail: int | None, since_s: float | None) -> dict[str, str]:
    """The part of the query that leaves out what is older. The API knows whole seconds only."""
    query = {} if tail is None else {"tailLines": str(tail)}
    return query if since_s is None else query | {"sinceSeconds": str(max(1, math.ceil(since_s)))}


def is_not_yet(error: TargetRefused) -> bool:
    """Whether the container has only not begun."""
    return error.status == 400 and any(one in error.message for one in _NOT_YET)


def text(line: bytes) -> str:
    return line.decode(errors="replace").removesuffix("\r")
