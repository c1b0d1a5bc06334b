"""The horizontal autoscaler: scales by the load that a test gives. Not recorded: written from its documentation."""

from __future__ import annotations

import math

from tests.deploy.kubernetes.fake import kinds
from tests.deploy.kubernetes.fake.apply import Owner
from tests.deploy.kubernetes.fake.events import tell
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects, stamp
from tests.deploy.kubernetes.fake.paths import Place
from tests.deploy.kubernetes.fake.writes import scale_to

NEVER = float("inf")
_EVERY_S = 15.0
_OWNER = Owner("kube-controller-manager", "Update", "apps/v1", "scale")
_NO_METRICS = (
    "the HPA was unable to compute the replica count: failed to get cpu utilization: unable to get metrics for "
    "resource cpu: unable to fetch metrics from resource metrics API: the server could not find the requested "
    "resource (get pods.metrics.k8s.io)"
)


class Autoscalers:
    """load: by how much the pods are used, against the target: 1.0 keeps them as they are. None without metrics."""

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self.load: float | None = None
        self._next: dict[str, float] = {}

    def sync(self, now: float) -> float:
        due = NEVER
        for found in self._objects.all(kinds.AUTOSCALER):
            uid = found["metadata"]["uid"]
            if now >= self._next.setdefault(uid, now):
                self._next[uid] = now + _EVERY_S
                self._one(found)
            due = min(due, self._next[uid])
        return due

    def again(self) -> None:
        """All at once, as when the load has changed."""
        self._next.clear()

    def _one(self, found: Object) -> None:
        spec, metadata = found["spec"], found["metadata"]
        name = spec["scaleTargetRef"]["name"]
        target = self._objects.get(kinds.DEPLOYMENT, metadata["namespace"], name)
        if target is None:
            words = (
                f'the HPA controller was unable to get the target\'s current scale: deployments.apps "{name}" not found'
            )
            self._report(found, 0, 0, [_condition("AbleToScale", "False", "FailedGetScale", words)])
            return
        current = target["spec"]["replicas"]
        if current == 0:
            words = "scaling is disabled since the replica count of the target is zero"
            able = _condition(
                "AbleToScale",
                "True",
                "SucceededGetScale",
                "the HPA controller was able to get the target's current scale",
            )
            self._report(found, 0, 0, [able, _condition("ScalingActive", "False", "ScalingDisabled", words)])
            return
        desired = current if self.load is None else math.ceil(current * self.load - 1e-9)
        desired = min(max(desired, spec["minReplicas"]), spec["maxReplicas"])
        if self.load is None:
            active = _condition("ScalingActive", "False", "FailedGetResourceMetric", _NO_METRICS)
            tell(
                self._objects, found, "FailedGetResourceMetric", _NO_METRICS, warning=True,
                component="horizontal-pod-autoscaler",
            )  # fmt: skip
        else:
            words = (
                "the HPA was able to successfully calculate a replica count from cpu resource utilization "
                "(percentage of request)"
            )
            active = _condition("ScalingActive", "True", "ValidMetricFound", words)
        able = _condition("AbleToScale", "True", "ReadyForNewScale", "recommended size matches current size")
        if desired != current:
            place = Place(kinds.DEPLOYMENT, metadata["namespace"], name, "scale")
            scale_to(self._objects, place, target, desired, _OWNER)
            words = f"the HPA controller was able to update the target scale to {desired}"
            able = _condition("AbleToScale", "True", "SucceededRescale", words)
            tell(
                self._objects, found, "SuccessfulRescale", f"New size: {desired}; reason: ",
                component="horizontal-pod-autoscaler",
            )  # fmt: skip
        self._report(found, current, desired, [able, active])

    def _report(self, found: Object, current: int, desired: int, conditions: list[Object]) -> None:
        before = {one["type"]: one for one in found["status"].get("conditions", [])}
        for one in conditions:
            last = before.get(one["type"])
            if last and last["status"] == one["status"]:
                one["lastTransitionTime"] = last["lastTransitionTime"]
        status = {
            "desiredReplicas": desired,
            "currentReplicas": current,
            "currentMetrics": None,
            "conditions": conditions,
        }
        if self.load is not None:
            metric = found["spec"]["metrics"][0].get("resource", {"name": "cpu", "target": {}})
            asked = metric["target"].get("averageUtilization", 80)
            used = {"averageUtilization": round(asked * self.load), "averageValue": "100m"}
            status["currentMetrics"] = [{"type": "Resource", "resource": {"name": metric["name"], "current": used}}]
        found["status"] = status
        self._objects.put(kinds.AUTOSCALER, found)


def _condition(type_: str, status: str, reason: str, message: str) -> Object:
    return {"type": type_, "status": status, "lastTransitionTime": stamp(), "reason": reason, "message": message}
