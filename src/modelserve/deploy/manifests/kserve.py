"""A run as KServe has it: an InferenceService, with this server as the ServingRuntime that serves it. Pure.

KServe makes the Deployment, the services and the autoscaler. The mode is its Standard one (RawDeployment): Knative's
takes neither the second port nor most of what a pod may ask for.
"""

from __future__ import annotations

from typing import Any

from modelserve.deploy.kinds import KINDS, Kind
from modelserve.deploy.manifests import autoscaler, pod, probes, resources, variables, volumes
from modelserve.deploy.manifests.labels import labels, metadata, pod_notes, serving
from modelserve.deploy.manifests.workload import HTTP_PORT, Workload
from modelserve.errors import ConfigError

RUNTIME = "modelserve"
"""What the ClusterServingRuntime is called."""
_CONTAINER = "kserve-container"
_GROUP = "serving.kserve.io/"
_Json = dict[str, Any]


def of(workload: Workload) -> list[_Json]:
    """Raises ConfigError for what KServe says otherwise."""
    for name in ("service_type", "service_name"):
        if name in workload.spec:
            raise ConfigError(f"{name} is {workload.spec[name]!r}; KServe makes the services of flavor 'kserve'")
    if workload.triton is not None:
        raise ConfigError(
            "triton is for flavor 'deployment'; with KServe write an InferenceService with Triton as its predictor and "
            "this server as its transformer, or give predictor_host"
        )
    return [_runtime(workload), _service(workload)]


def cluster_runtime(image: str) -> _Json:
    """The ClusterServingRuntime that an administrator installs once; an InferenceService names it: `runtime:
    modelserve`. Not chosen by itself, since KServe's own is for the same formats."""
    mounted = volumes.writable({"emptyDir": {}})
    container = {
        "name": _CONTAINER,
        "image": image,
        "command": list(pod.COMMAND),
        "args": ["--model_name={{.Name}}"],
        "env": [{"name": name, "value": value} for name, value in variables.PLACES.items()],
        "ports": [{"containerPort": HTTP_PORT, "protocol": "TCP"}],
        **probes.of(HTTP_PORT),
        **pod.ending(),
        "securityContext": pod.security(),
        "volumeMounts": [one.mount for one in mounted],
        "resources": {"requests": {"cpu": "1", "memory": "2Gi"}},
    }
    formats = [_format(kind) for kind in KINDS.values()]
    return {
        "apiVersion": _GROUP + "v1alpha1",
        "kind": "ClusterServingRuntime",
        "metadata": {"name": RUNTIME, "labels": {"app.kubernetes.io/name": "modelserve"}},
        "spec": {**_spec(HTTP_PORT, formats), "containers": [container], "volumes": pod.listed(mounted)},
    }


def _runtime(workload: Workload) -> _Json:
    mounted = volumes.server_volumes(workload)
    container = pod.container(workload, mounted, _CONTAINER)
    for key in ("args", "env", "envFrom", "resources"):  # the InferenceService has them, and KServe joins the two
        container.pop(key, None)
    container["ports"] = [{"containerPort": workload.http_port, "protocol": "TCP"}]
    spec = {
        **_spec(workload.http_port, [_format(workload.kind)]),
        "containers": [container],
        "volumes": pod.listed(mounted),
    }
    return {
        "apiVersion": _GROUP + "v1alpha1",
        "kind": "ServingRuntime",
        "metadata": metadata(workload),
        "spec": spec,
    }


def _service(workload: Workload) -> _Json:
    meta = serving(workload)
    meta["annotations"] = meta["annotations"] | {_GROUP + "deploymentMode": "RawDeployment"}
    own = volumes.run_volumes(workload)
    model: _Json = {
        "modelFormat": {"name": _format(workload.kind)},
        "runtime": workload.name,
        "protocolVersion": "v2",
        "args": list(workload.args),
        "env": variables.env(workload),
    }
    if sources := variables.env_from(workload.spec):
        model["envFrom"] = sources
    if wanted := resources.of(workload):
        model["resources"] = wanted
    if own:
        model["volumeMounts"] = [one.mount for one in own]
    predictor = {
        **_scale(workload),
        "deploymentStrategy": pod.strategy(),
        "labels": labels(workload),
        "annotations": pod_notes(workload),
        **pod.placed(workload),
        "model": model,
    }
    if own:
        predictor["volumes"] = pod.listed(own)
    return {
        "apiVersion": _GROUP + "v1beta1",
        "kind": "InferenceService",
        "metadata": meta,
        "spec": {"predictor": predictor},
    }


def _format(kind: Kind) -> str:
    """What KServe calls it."""
    return kind.model_format or "huggingface"


def _scale(workload: Workload) -> _Json:
    said = workload.spec.get("scaling")
    if said is None:
        return {"minReplicas": workload.replicas, "maxReplicas": workload.replicas}
    (name, amount), *more = said["target"].items()
    if more or name not in autoscaler.RESOURCES:
        raise ConfigError(f"target in scaling is {said['target']}; flavor 'kserve' scales by cpu or mem, one of them")
    autoscaler.check_requested(workload, name)
    bounds = {"minReplicas": said["min_replicas"], "maxReplicas": said["max_replicas"]}
    return bounds | {"scaleMetric": autoscaler.RESOURCES[name], "scaleTarget": amount}


def _spec(port: int, formats: list[str]) -> _Json:
    return {
        "annotations": {"prometheus.kserve.io/port": str(port), "prometheus.kserve.io/path": "/metrics"},
        "supportedModelFormats": [{"name": name, "version": "1", "autoSelect": False} for name in formats],
        "protocolVersions": ["v2", "v1"],
    }
