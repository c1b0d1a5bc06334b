"""The Deployment of a run. Pure."""

from __future__ import annotations

from typing import Any

from modelserve.deploy.manifests import pod, probes, triton
from modelserve.deploy.manifests.labels import selector, serving
from modelserve.deploy.manifests.workload import Workload


def of(workload: Workload) -> dict[str, Any]:
    template = pod.template(workload)
    spec: dict[str, Any] = {
        "progressDeadlineSeconds": triton.startup_s(workload) + probes.startup_s(workload) + pod.BEFORE_START_S,
        "selector": {"matchLabels": selector(workload)},
        "strategy": pod.strategy(),
        "template": triton.beside(workload, template) if triton.is_beside(workload) else template,
    }
    if "scaling" not in workload.spec:  # else each apply would undo what the autoscaler has done
        spec = {"replicas": workload.replicas, **spec}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": serving(workload), "spec": spec}
