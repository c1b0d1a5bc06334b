"""The kinds that the fake API server has, and its discovery documents. Pure.

apps/v1 is as recorded, with kinds that no controller of the fake looks after (DaemonSet, StatefulSet): objects of them
are stored and nothing more. The other groups' documents are written from Kubernetes' documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Object = dict[str, Any]

_ALL = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Kind:
    """One resource of the API, with its subresources."""

    group: str
    version: str
    plural: str
    name: str
    namespaced: bool = True
    verbs: tuple[str, ...] = _ALL
    short: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    storage_hash: str = ""
    subresources: tuple[str, ...] = ()
    status: bool = field(default=True)
    """Whether it has a status of its own, which the main path does not write."""

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def qualified(self) -> str:
        """As in messages: deployments.apps, pods."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def kind_qualified(self) -> str:
        return f"{self.name}.{self.group}" if self.group else self.name


def _core(plural: str, name: str, **rest: Any) -> Kind:
    return Kind("", "v1", plural, name, **rest)


def _apps(plural: str, name: str, short: str, storage_hash: str, *subresources: str) -> Kind:
    shorts = (short,) if short else ()
    categories = ("all",) if short else ()
    return Kind(
        "apps", "v1", plural, name, short=shorts, categories=categories, storage_hash=storage_hash,
        subresources=subresources, status=bool(subresources),
    )  # fmt: skip


NAMESPACE = _core("namespaces", "Namespace", namespaced=False, short=("ns",), subresources=("status",))
POD = _core("pods", "Pod", short=("po",), categories=("all",), subresources=("log", "portforward", "status"))
EVENT = _core("events", "Event", short=("ev",), status=False)
SERVICE = _core("services", "Service", short=("svc",), categories=("all",), subresources=("status",))
SECRET = _core("secrets", "Secret", status=False)
CONFIG_MAP = _core("configmaps", "ConfigMap", short=("cm",), status=False)
CLAIM = _core("persistentvolumeclaims", "PersistentVolumeClaim", short=("pvc",), subresources=("status",))
ACCOUNT = _core("serviceaccounts", "ServiceAccount", short=("sa",), status=False)
QUOTA = _core("resourcequotas", "ResourceQuota", short=("quota",), subresources=("status",))
DEPLOYMENT = _apps("deployments", "Deployment", "deploy", "8aSe+NMegvE=", "scale", "status")
REPLICA_SET = _apps("replicasets", "ReplicaSet", "rs", "P1RzHs8/mWQ=", "scale", "status")
AUTOSCALER = Kind(
    "autoscaling", "v2", "horizontalpodautoscalers", "HorizontalPodAutoscaler", short=("hpa",), subresources=("status",)
)
BUDGET = Kind("policy", "v1", "poddisruptionbudgets", "PodDisruptionBudget", short=("pdb",), subresources=("status",))
REVIEW = Kind(
    "authorization.k8s.io", "v1", "selfsubjectaccessreviews", "SelfSubjectAccessReview", namespaced=False,
    verbs=("create",),
)  # fmt: skip
METRICS = Kind("metrics.k8s.io", "v1beta1", "pods", "PodMetrics", verbs=("get", "list"), status=False)
INFERENCE = Kind(
    "serving.kserve.io", "v1beta1", "inferenceservices", "InferenceService", short=("isvc",), subresources=("status",)
)
RUNTIME = Kind("serving.kserve.io", "v1alpha1", "servingruntimes", "ServingRuntime", status=False)
CLUSTER_RUNTIME = Kind(
    "serving.kserve.io", "v1alpha1", "clusterservingruntimes", "ClusterServingRuntime", namespaced=False, status=False
)

KINDS: tuple[Kind, ...] = (
    CONFIG_MAP, EVENT, NAMESPACE, CLAIM, POD, QUOTA, SECRET, ACCOUNT, SERVICE,
    _apps("controllerrevisions", "ControllerRevision", "", "85nkx63pcBU="),
    _apps("daemonsets", "DaemonSet", "ds", "dd7pWHUlMKQ=", "status"),
    DEPLOYMENT, REPLICA_SET,
    _apps("statefulsets", "StatefulSet", "sts", "H+vl74LkKdo=", "scale", "status"),
    AUTOSCALER, BUDGET, REVIEW, METRICS, INFERENCE, RUNTIME, CLUSTER_RUNTIME,
)  # fmt: skip
OPTIONAL_GROUPS = frozenset({"metrics.k8s.io", "serving.kserve.io"})
"""Installed only when a test says so."""


def find(group: str, version: str, plural: str) -> Kind | None:
    for kind in KINDS:
        if (kind.group, kind.version, kind.plural) == (group, version, plural):
            return kind
    return None


def named(name: str) -> Kind:
    """By the kind's name."""
    for kind in KINDS:
        if kind.name == name:
            return kind
    raise KeyError(name)


def groups(installed: frozenset[str]) -> dict[str, tuple[str, ...]]:
    """The versions of each group that is there, but the core one's."""
    found: dict[str, tuple[str, ...]] = {}
    for kind in KINDS:
        if kind.group and (kind.group not in OPTIONAL_GROUPS or kind.group in installed):
            versions = found.get(kind.group, ())
            found[kind.group] = versions if kind.version in versions else (*versions, kind.version)
    return found


def group_list(installed: frozenset[str]) -> Object:
    """/apis"""
    return {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [group_of(name, versions) for name, versions in groups(installed).items()],
    }


def group_of(name: str, versions: tuple[str, ...]) -> Object:
    each = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": each, "preferredVersion": each[0]}


def resource_list(group: str, version: str) -> Object:
    """/api/v1, /apis/GROUP/VERSION"""
    found: list[Object] = []
    for kind in KINDS:
        if (kind.group, kind.version) == (group, version):
            found += _resources(kind)
    api_version = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": api_version, "resources": found}


def _resources(kind: Kind) -> list[Object]:
    one: Object = {
        "name": kind.plural, "singularName": kind.name.lower(), "namespaced": kind.namespaced, "kind": kind.name,
        "verbs": list(kind.verbs),
    }  # fmt: skip
    for key, value in (("shortNames", kind.short), ("categories", kind.categories)):
        if value:
            one[key] = list(value)
    if kind.storage_hash:
        one["storageVersionHash"] = kind.storage_hash
    return [one, *(_subresource(kind, name) for name in kind.subresources)]


def _subresource(kind: Kind, name: str) -> Object:
    one: Object = {"name": f"{kind.plural}/{name}", "singularName": "", "namespaced": kind.namespaced}
    if name == "scale":
        return one | {"group": "autoscaling", "version": "v1", "kind": "Scale", "verbs": ["get", "patch", "update"]}
    if name == "log":
        return one | {"kind": "Pod", "verbs": ["get"]}
    if name == "portforward":
        return one | {"kind": "PodPortForwardOptions", "verbs": ["create", "get"]}
    return one | {"kind": kind.name, "verbs": ["get", "patch", "update"]}
