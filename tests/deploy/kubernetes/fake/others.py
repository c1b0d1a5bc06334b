"""What the cluster does with claims, services, disruption budgets and inference services. Not recorded.

Whoever calls holds the store's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from tests.deploy.kubernetes.fake import kinds, selectors
from tests.deploy.kubernetes.fake.kinds import Kind, Object
from tests.deploy.kubernetes.fake.objects import Objects, stamp
from tests.deploy.kubernetes.fake.replicas import is_ready
from tests.deploy.kubernetes.fake.scheduler import Node

NEVER = float("inf")
_BOUND_S, _BALANCED_S = 0.2, 0.5


class Others:
    """Remembers since when each of them is there."""

    def __init__(self, objects: Objects, node: Callable[[], Node]) -> None:
        self._objects, self._node = objects, node
        self._since: dict[str, float] = {}

    def sync(self, now: float) -> float:
        due = NEVER
        for kind, wait, step in (
            (kinds.CLAIM, _BOUND_S, self._bind),
            (kinds.SERVICE, _BALANCED_S, self._balance),
            (kinds.BUDGET, 0.0, self._budget),
        ):
            for one in self._objects.all(kind):
                at = self._since.setdefault(one["metadata"]["uid"], now) + wait
                if now < at:
                    due = min(due, at)
                else:
                    step(kind, one)
        return due

    def _bind(self, kind: Kind, claim: Object) -> None:
        if claim["status"].get("phase") == "Bound" or not self._node().binds:
            return
        claim["spec"]["volumeName"] = f"pvc-{claim['metadata']['uid']}"
        claim["status"] = {
            "phase": "Bound", "accessModes": claim["spec"]["accessModes"],
            "capacity": {"storage": claim["spec"]["resources"]["requests"]["storage"]},
        }  # fmt: skip
        self._objects.put(kind, claim)

    def _balance(self, kind: Kind, service: Object) -> None:
        if service["spec"]["type"] == "LoadBalancer" and not service["status"]["loadBalancer"]:
            service["status"]["loadBalancer"] = {"ingress": [{"ip": "192.0.2.80", "ipMode": "VIP"}]}
            self._objects.put(kind, service)

    def _budget(self, kind: Kind, budget: Object) -> None:
        spec = budget["spec"]
        pods = [
            one
            for one in self._objects.look(kinds.POD)
            if one["metadata"]["namespace"] == budget["metadata"]["namespace"]
            and selectors.matches(spec.get("selector"), one["metadata"].get("labels", {}))
        ]
        healthy, expected = sum(map(is_ready, pods)), len(pods)
        if "minAvailable" in spec:
            desired = _share(spec["minAvailable"], expected)
        else:
            desired = max(0, expected - _share(spec.get("maxUnavailable", 1), expected))
        allowed = max(0, healthy - desired)
        status = {
            "disruptionsAllowed": allowed, "currentHealthy": healthy, "desiredHealthy": desired,
            "expectedPods": expected, "observedGeneration": budget["metadata"]["generation"],
        }  # fmt: skip
        told = "True" if allowed else "False"
        reason = "SufficientPods" if allowed else "InsufficientPods"
        last: Object = next(iter(budget["status"].get("conditions", [])), {})
        since = last["lastTransitionTime"] if last.get("status") == told else stamp()
        status["conditions"] = [
            {
                "type": "DisruptionAllowed", "status": told, "reason": reason, "message": "",
                "lastTransitionTime": since, "observedGeneration": budget["metadata"]["generation"],
            }
        ]  # fmt: skip
        budget["status"] = status
        self._objects.put(kind, budget)


def _share(said: int | str, of: int) -> int:
    if isinstance(said, str) and said.endswith("%"):
        return math.ceil(int(said[:-1]) * of / 100)
    return int(said)
