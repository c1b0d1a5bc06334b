"""The HorizontalPodAutoscaler of a run. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy.manifests import pod, resources, triton
from modelserve.deploy.manifests.labels import metadata
from modelserve.deploy.manifests.workload import Workload
from modelserve.errors import ConfigError

RESOURCES = {"cpu": "cpu", "mem": "memory"}


def of(workload: Workload) -> list[dict[str, Any]]:
    """One, where the run has `scaling`. Raises ConfigError."""
    if (said := workload.spec.get("scaling")) is None:
        return []
    spec = {
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": workload.name},
        "minReplicas": said["min_replicas"],
        "maxReplicas": said["max_replicas"],
        "metrics": [_metric(workload, name, amount) for name, amount in said["target"].items()],
    }
    return [
        {
            "apiVersion": "autoscaling/v2",
            "kind": "HorizontalPodAutoscaler",
            "metadata": metadata(workload),
            "spec": spec,
        }
    ]


def check_requested(workload: Workload, name: str) -> None:
    """Raises ConfigError for a share of something that is not asked for, which no cluster can compute."""
    asked = resources.of(workload)
    if not any(RESOURCES[name] in asked.get(amounts, {}) for amounts in ("requests", "limits")):
        raise ConfigError(
            f"scaling is by the share of the requested {name}, and resources requests none; say resources="
            f'{{"{name}": …}} too'
        )


def _metric(workload: Workload, name: str, amount: Any) -> dict[str, Any]:
    if name in RESOURCES:
        check_requested(workload, name)
        target = {"type": "Utilization", "averageUtilization": amount}
        if triton.is_beside(workload):  # of all containers, each would have to request some
            one = {"name": RESOURCES[name], "container": pod.CONTAINER, "target": target}
            return {"type": "ContainerResource", "containerResource": one}
        return {"type": "Resource", "resource": {"name": RESOURCES[name], "target": target}}
    target = {"type": "AverageValue", "averageValue": amount}
    return {"type": "Pods", "pods": {"metric": {"name": name}, "target": target}}
