"""The kinds of objects that runs have in a cluster, and where the API has them. Pure."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import quote


class Resource(NamedTuple):
    api_version: str
    plural: str

    def path(self, namespace: str, name: str = "", subresource: str = "") -> str:
        """Of one object, or of all in a namespace where it has no name."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        parts = [self.plural, name, subresource]
        return "/".join([root, "namespaces", quote(namespace, safe=""), *(quote(one, safe="") for one in parts if one)])


RESOURCES: dict[str, Resource] = {
    "InferenceService": Resource("serving.kserve.io/v1beta1", "inferenceservices"),
    "ServingRuntime": Resource("serving.kserve.io/v1alpha1", "servingruntimes"),
    "HorizontalPodAutoscaler": Resource("autoscaling/v2", "horizontalpodautoscalers"),
    "PodDisruptionBudget": Resource("policy/v1", "poddisruptionbudgets"),
    "Service": Resource("v1", "services"),
    "Deployment": Resource("apps/v1", "deployments"),
    "ConfigMap": Resource("v1", "configmaps"),
    "Secret": Resource("v1", "secrets"),
    "PersistentVolumeClaim": Resource("v1", "persistentvolumeclaims"),
    "Pod": Resource("v1", "pods"),
    "Event": Resource("v1", "events"),
    "PodMetrics": Resource("metrics.k8s.io/v1beta1", "pods"),
}

OWNED = tuple(kind for kind in RESOURCES if kind not in ("Pod", "Event", "PodMetrics"))
"""What a run may have made, in the order in which it is removed: who asks for something before what it asks for."""
