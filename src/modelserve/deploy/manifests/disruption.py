"""The PodDisruptionBudget of a run: how many pods may be missing while nodes are emptied. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy import shapes
from modelserve.deploy.manifests.labels import metadata, selector
from modelserve.deploy.manifests.workload import Workload


def of(workload: Workload) -> list[dict[str, Any]]:
    """One, where the run has a `disruption_budget`."""
    if (said := workload.spec.get("disruption_budget")) is None:
        return []
    spec = {shapes.camel(key): amount for key, amount in said.items()} | {
        "selector": {"matchLabels": selector(workload)}
    }
    return [
        {"apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": metadata(workload), "spec": spec},
    ]
