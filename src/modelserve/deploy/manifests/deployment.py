"""The Deployment of a run. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy.manifests import pod, probes
from modelserve.deploy.manifests.labels import selector, serving
from modelserve.deploy.manifests.workload import Workload

_BEFORE_START_S = 600
"""For a node to be found and the image to be pulled: what Kubernetes gives the whole, by itself."""


def of(workload: Workload) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "progressDeadlineSeconds": probes.startup_s(workload) + _BEFORE_START_S,
        "selector": {"matchLabels": selector(workload)},
        "strategy": strategy(),
        "template": pod.template(workload),
    }
    if "scaling" not in workload.spec:  # else each apply would undo what the autoscaler has done
        spec = {"replicas": workload.replicas, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": serving(workload), "spec": spec}


def strategy() -> dict[str, Any]:
    """An old pod ends when a new one answers, so there is no moment without."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}
