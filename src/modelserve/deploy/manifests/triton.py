"""The Triton behind a run's server: a container of the same pod, or a Deployment with its Service. Pure.

In the server's pod it is a sidecar (an init container that goes on, Kubernetes 1.29): it has loaded its models when the
server starts, and it ends when the server has answered what it had accepted.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from modelserve.deploy.manifests import pod, probes, resources, variables, volumes
from modelserve.deploy.manifests.labels import labels, metadata, triton_notes, triton_selector
from modelserve.deploy.manifests.names import behind
from modelserve.deploy.manifests.predictor import is_apart
from modelserve.deploy.manifests.volumes import Mounted
from modelserve.deploy.manifests.workload import Workload
from modelserve.deploy.triton_shape import GRPC_PORT, HTTP_PORT, METRICS_PORT

NAME = "triton"
"""Of the container, and of what is part of it."""
_PORTS = {"http-triton": HTTP_PORT, "grpc-triton": GRPC_PORT, "http-metrics": METRICS_PORT}
"""By names that meshes read, and that the server's ports do not have."""
_EXIT_S = 30
"""Triton's --exit-timeout-secs: what it leaves to requests in flight when it is told to end."""
_PLACES = {"HOME": variables.SCRATCH}
"""Triton's user 1000 has a home that nobody may write to here, and libraries of Python models keep caches there."""
_Json = dict[str, Any]


def of(workload: Workload) -> list[_Json]:
    """Deployment and Service, where it has its own."""
    if not is_apart(workload.spec):
        return []
    return [_deployment(workload), _service(workload)]


def is_beside(workload: Workload) -> bool:
    """Whether it is in the server's pods."""
    return workload.triton is not None and not is_apart(workload.spec)


def beside(workload: Workload, template: _Json) -> _Json:
    """The server's pods with Triton in each."""
    spec, mounted = template["spec"], _mounted(workload)
    more = {
        # While the server drains it still asks Triton, which is told to end afterwards and has nothing to do then.
        "terminationGracePeriodSeconds": spec["terminationGracePeriodSeconds"] + pod.MARGIN_S,
        "initContainers": [{"name": NAME, "restartPolicy": "Always", **_container(workload, mounted)}],
        "containers": spec["containers"],
        "volumes": [*spec["volumes"], *pod.listed(mounted)],
    }
    return template | {"spec": {name: said for name, said in spec.items() if name not in more} | more}


def startup_s(workload: Workload) -> int:
    """How much later the server of a pod may start because of it."""
    return probes.startup_s(workload) if is_beside(workload) else 0


def _deployment(workload: Workload) -> _Json:
    said, mounted = _said(workload), _mounted(workload)
    box = _container(workload, mounted) | pod.ending()
    spec = {
        **pod.spec_of(workload, said, pod.PRE_STOP_S + _EXIT_S + pod.MARGIN_S),
        "containers": [box],
        "volumes": pod.listed(mounted),
    }
    own = {"labels": labels(workload, NAME) | triton_selector(workload), "annotations": triton_notes(workload)}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": metadata(workload, behind(workload.name), NAME),
        "spec": {
            "replicas": said.get("replicas", 1),
            "progressDeadlineSeconds": probes.startup_s(workload) + pod.BEFORE_START_S,
            "selector": {"matchLabels": triton_selector(workload)},
            "strategy": pod.strategy(),
            "template": {"metadata": own, "spec": spec},
        },
    }


def _service(workload: Workload) -> _Json:
    ports = [{"name": name, "port": port, "targetPort": name, "protocol": "TCP"} for name, port in _PORTS.items()]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(workload, behind(workload.name), NAME),
        "spec": {"type": "ClusterIP", "selector": triton_selector(workload), "ports": ports},
    }


def _container(workload: Workload, mounted: list[Mounted]) -> _Json:
    """Started by the image's own entry point, which makes CUDA ready. Raises ConfigError."""
    said = _said(workload)
    where = said["model_repository"]
    place = where if isinstance(where, str) else where["mount_path"]
    found: _Json = {"name": NAME, "image": said["image"], **pod.pulled(workload)}
    found |= {
        "args": ["tritonserver", f"--model-repository={place}", *said.get("args", ())],
        "ports": [{"name": name, "containerPort": port, "protocol": "TCP"} for name, port in _PORTS.items()],
        "env": variables.entries(_PLACES, said, workload.triton_secrets, behind(workload.name)),
    }
    if sources := variables.env_from(said):
        found["envFrom"] = sources
    if wanted := resources.asked(said.get("resources", {}), workload.template.gpu):
        found["resources"] = wanted
    found |= probes.of_triton(HTTP_PORT, probes.startup_s(workload))
    found |= {"terminationMessagePolicy": "FallbackToLogsOnError", "securityContext": pod.security()}
    return found | {"volumeMounts": [one.mount for one in mounted]}


def _mounted(workload: Workload) -> list[Mounted]:
    """The models, which it only reads, and what a root that is only read needs."""
    where = _said(workload)["model_repository"]
    found = volumes.scratch("triton-")
    if not isinstance(where, str):
        models = volumes.mounted(workload, where, f"{volumes.OURS}triton-models")
        found.insert(0, models._replace(mount=models.mount | {"readOnly": True}))
    return found


def _said(workload: Workload) -> Mapping[str, Any]:
    return workload.triton or {}
