"""A pod and its server's container, on whatever kind of object makes pods of it. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from modelserve.deploy import shapes
from modelserve.deploy.manifests import claims, probes, resources, variables, volumes
from modelserve.deploy.manifests.labels import labels, pod_notes, selector
from modelserve.deploy.manifests.workload import Workload

CONTAINER = "modelserve"
COMMAND = ["modelserve", "serve"]
_USER = 1000
PRE_STOP_S = 5
"""Between a pod's end being decided and SIGTERM, which closes the door: until every node has heard of it, requests
still come."""
MARGIN_S = 10
"""For a server that has drained to end by itself."""
BEFORE_START_S = 600
"""For a node to be found and the image to be pulled: what Kubernetes gives the whole, by itself."""
_Json = dict[str, Any]


def template(workload: Workload) -> _Json:
    """Metadata and spec of the pods."""
    mounted = volumes.of(workload)
    return {
        "metadata": {"labels": labels(workload), "annotations": pod_notes(workload)},
        "spec": {
            **placed(workload),
            "containers": [container(workload, mounted)],
            "volumes": listed(mounted),
        },
    }


def placed(workload: Workload) -> _Json:
    """Where and as whom the pods run, and how they end."""
    return spec_of(workload, workload.spec | {"affinity": _affinity(workload)}, grace_s(workload))


def spec_of(workload: Workload, where: Mapping[str, Any], ends_in_s: int) -> _Json:
    """Of pods of the run. where: what is said of nodes, by the names of a run's parameters. ends_in_s: as grace_s()."""
    spec = workload.spec
    found: _Json = {
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": ends_in_s,
        "securityContext": pod_security(),
    }
    if "node_selector" in where:
        found["nodeSelector"] = {one["key"]: one["value"] for one in where["node_selector"]}
    if where.get("affinity"):
        found["affinity"] = where["affinity"]
    if "tolerations" in where:
        found["tolerations"] = [{shapes.camel(k): v for k, v in one.items()} for one in where["tolerations"]]
    if "runtime_class" in where:
        found["runtimeClassName"] = where["runtime_class"]
    if "priority_class" in spec:
        found["priorityClassName"] = spec["priority_class"]
    if "image_pull_secrets" in spec:
        found["imagePullSecrets"] = [{"name": name} for name in spec["image_pull_secrets"]]
    return found


def grace_s(workload: Workload) -> int:
    """From the decision to SIGKILL: longer than the server takes to answer what it has accepted."""
    return PRE_STOP_S + workload.shutdown_timeout_s + MARGIN_S


def container(workload: Workload, mounted: list[volumes.Mounted], name: str = CONTAINER) -> _Json:
    found: _Json = {"name": name, "image": workload.image, **pulled(workload)}
    found |= {"command": list(COMMAND), "args": list(workload.args), "ports": _ports(workload)}
    found["env"] = variables.env(workload)
    if sources := variables.env_from(workload.spec):
        found["envFrom"] = sources
    if wanted := resources.of(workload):
        found["resources"] = wanted
    found |= probes.of(workload.http_port, probes.startup_s(workload)) | ending() | {"securityContext": security()}
    return found | {"volumeMounts": [one.mount for one in mounted]}


def pulled(workload: Workload) -> _Json:
    """When the image of a container is looked for in its registry."""
    return {"imagePullPolicy": workload.spec["image_pull_policy"]} if "image_pull_policy" in workload.spec else {}


def strategy() -> _Json:
    """Of a Deployment: an old pod ends when a new one answers, so there is no moment without."""
    return {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def ending() -> _Json:
    """What is done before SIGTERM, and where the reason is read when a container has ended."""
    return {
        "lifecycle": {"preStop": {"exec": {"command": ["sleep", str(PRE_STOP_S)]}}},
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }


def security() -> _Json:
    """Pod Security Standards, "restricted", and a root that nobody writes to."""
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "privileged": False,
        "readOnlyRootFilesystem": True,
    }


def pod_security() -> _Json:
    """fsGroup: volumes are the server's to write. Their files are changed only where the top folder is not so yet."""
    return {
        "runAsNonRoot": True,
        "runAsUser": _USER,
        "runAsGroup": _USER,
        "fsGroup": _USER,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def listed(mounted: list[volumes.Mounted]) -> list[_Json]:
    """Each volume once, though it may be mounted twice."""
    return list({one.volume["name"]: one.volume for one in mounted}.values())


def _ports(workload: Workload) -> list[_Json]:
    named = {"http": workload.http_port, "grpc": workload.grpc_port}
    return [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in named.items() if port]


def _affinity(workload: Workload) -> _Json:
    """The run's; and where it has a disk for one node, its pods are where its other pods are, or the new pod of a
    rolling update could wait on another node for the disk that the old one has."""
    found: _Json = copy.deepcopy(workload.spec.get("affinity", {}))
    if claims.are_on_one_node(workload):
        near = {"labelSelector": {"matchLabels": selector(workload)}, "topologyKey": "kubernetes.io/hostname"}
        pods = found.setdefault("podAffinity", {})
        key = "requiredDuringSchedulingIgnoredDuringExecution"
        pods[key] = [*pods.get(key, ()), near]
    return found
