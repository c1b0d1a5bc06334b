"""KServe's controller in its raw deployment mode, where KServe is installed: an InferenceService becomes a Deployment
and a Service NAME-predictor, with the containers of its ServingRuntime, and is Ready when they are.

Not recorded: written from KServe's documentation and sources. Whoever calls holds the store's lock.
"""

from __future__ import annotations

from typing import Any

from tests.deploy.kubernetes.fake import kinds, schema
from tests.deploy.kubernetes.fake.deployments import reference
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import Objects, copied, stamp
from tests.deploy.kubernetes.fake.patches import patched
from tests.deploy.kubernetes.fake.status import Refused
from tests.deploy.kubernetes.fake.writes import added, remade

NEVER = float("inf")
_NAME = "kserve-container"
_OWN = ("model", "minReplicas", "maxReplicas", "deploymentStrategy", "labels", "annotations", "scaleTarget",
        "scaleMetric", "timeout", "containerConcurrency", "batcher", "logger", "canaryTrafficPercent")  # fmt: skip
"""Of a predictor, what is no part of a pod."""


class Inference:
    """The controller, which looks at every InferenceService each time."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects

    def sync(self, now: float) -> float:
        for found in self._objects.all(kinds.INFERENCE):
            if "deletionTimestamp" not in found["metadata"]:
                self._one(found)
        return NEVER

    def _one(self, found: Object) -> None:
        namespace, name = found["metadata"]["namespace"], found["metadata"]["name"]
        model = found["spec"]["predictor"].get("model", {})
        runtime = self._objects.get(kinds.RUNTIME, namespace, model.get("runtime", "")) or self._objects.get(
            kinds.CLUSTER_RUNTIME, "", model.get("runtime", "")
        )
        if runtime is None:
            words = f'ServingRuntime.serving.kserve.io "{model.get("runtime", "")}" not found'
            self._report(found, [_condition("PredictorReady", False, "RuntimeNotRecognized", words)], None)
            return
        try:
            self._make(kinds.DEPLOYMENT, found, _deployment(found, runtime))
            self._make(kinds.SERVICE, found, _service(found))
        except Refused as refused:
            self._report(found, [_condition("PredictorReady", False, "InternalError", str(refused))], None)
            return
        made = self._objects.get(kinds.DEPLOYMENT, namespace, f"{name}-predictor")
        available = next(
            (one for one in (made or {}).get("status", {}).get("conditions", []) if one["type"] == "Available"), None
        )
        ready = available is not None and available["status"] == "True"
        reason, words = ("", "") if ready or available is None else (available["reason"], available["message"])
        conditions = [_condition(one, ready, reason, words) for one in ("IngressReady", "PredictorReady")]
        self._report(found, conditions, f"http://{name}-predictor.{namespace}.svc.cluster.local" if ready else None)

    def _make(self, kind: Kind, owner: Object, wanted: Object) -> None:
        namespace = owner["metadata"]["namespace"]
        wanted["metadata"]["ownerReferences"] = [reference(owner)]
        live = self._objects.get(kind, namespace, wanted["metadata"]["name"])
        if live is None:
            added(self._objects, kind, namespace, wanted)
        else:
            remade(self._objects, kind, live, wanted)

    def _report(self, found: Object, conditions: list[Object], url: str | None) -> None:
        ready = url is not None
        cause: Object = next((one for one in conditions if one["status"] == "False"), {})
        conditions.append(_condition("Ready", ready, cause.get("reason", ""), cause.get("message", "")))
        before: dict[str, Object] = {one["type"]: one for one in found.get("status", {}).get("conditions", [])}
        for one in conditions:
            last = before.get(one["type"])
            if last and last["status"] == one["status"]:
                one["lastTransitionTime"] = last["lastTransitionTime"]
        status: Object = {"conditions": sorted(conditions, key=lambda one: str(one["type"]))}
        status["observedGeneration"] = found["metadata"]["generation"]
        if url is not None:
            status |= {"url": url, "address": {"url": url}, "components": {"predictor": {"url": url}}}
        found["status"] = status
        self._objects.put(kinds.INFERENCE, found)


def _deployment(found: Object, runtime: Object) -> Object:
    predictor, metadata = found["spec"]["predictor"], found["metadata"]
    name = f"{metadata['name']}-predictor"
    base = {key: copied(runtime["spec"][key]) for key in _POD if key in runtime["spec"]}
    model = {key: value for key, value in predictor.get("model", {}).items() if key in _container_fields()}
    node = schema.of(kinds.POD).field("spec")
    assert node is not None
    own = {key: value for key, value in predictor.items() if key not in _OWN}
    spec = patched("strategic", node, base, own)
    container = next(one for one in spec["containers"] if one["name"] == _NAME)
    args = [*container.get("args", []), *model.pop("args", [])]
    items = node.field("containers")
    assert items is not None
    container |= patched("strategic", items.items, container, model)
    if args:
        container["args"] = args
    labels = metadata.get("labels", {}) | predictor.get("labels", {})
    labels |= {"app": f"isvc.{name}", "component": "predictor", "serving.kserve.io/inferenceservice": metadata["name"]}
    template: Object = {"metadata": {"labels": labels}, "spec": spec}
    if annotations := {**runtime["spec"].get("annotations", {}), **predictor.get("annotations", {})}:
        template["metadata"]["annotations"] = annotations
    wanted: Object = {
        "replicas": predictor.get("minReplicas", 1), "selector": {"matchLabels": {"app": f"isvc.{name}"}},
        "template": template,
    }  # fmt: skip
    if strategy := predictor.get("deploymentStrategy"):
        wanted["strategy"] = copied(strategy)
    return {"kind": "Deployment", "metadata": {"name": name, "labels": dict(labels)}, "spec": wanted}


_POD = ("containers", "volumes", "nodeSelector", "affinity", "tolerations", "imagePullSecrets", "hostIPC")


def _container_fields() -> set[str]:
    node = schema.of(kinds.POD).field("spec")
    assert node is not None
    containers = node.field("containers")
    assert containers is not None
    return set(containers.items.schema["properties"])


def _service(found: Object) -> Object:
    name = f"{found['metadata']['name']}-predictor"
    port: dict[str, Any] = {"name": "http", "port": 80, "targetPort": 8080}
    labels = dict(found["metadata"].get("labels", {}))
    return {
        "kind": "Service", "metadata": {"name": name, "labels": labels},
        "spec": {"selector": {"app": f"isvc.{name}"}, "ports": [port]},
    }  # fmt: skip


def _condition(type_: str, ready: bool, reason: str = "", message: str = "") -> Object:
    made: Object = {"type": type_, "status": "True" if ready else "False", "lastTransitionTime": stamp()}
    told = {} if ready else {"reason": reason, "message": message}
    return made | {key: value for key, value in told.items() if value}
