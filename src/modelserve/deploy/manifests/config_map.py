"""The ConfigMap of a run: files of this machine that its server is told to read. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy.manifests.labels import metadata
from modelserve.deploy.manifests.workload import Workload


def of(workload: Workload) -> list[dict[str, Any]]:
    """One, where there are files."""
    if not workload.files:
        return []
    data = dict(workload.files)
    return [{"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata(workload), "data": data}]
