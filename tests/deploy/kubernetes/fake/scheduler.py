"""Where a pod would run: the cluster's one schedulable node of two, and why not, in the scheduler's words.

Recorded: a resource that the node has not enough of, a claim that is not there. From the scheduler's sources: node
selectors, claims that are not bound, a priority class that is not there is not looked at. Pure, but for the store.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from decimal import Decimal

from tests.deploy.kubernetes.fake import kinds, needs
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects, stamp
from tests.deploy.kubernetes.fake.validation import quantity

_PREEMPTION = (
    "no new claims to deallocate, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
)


@dataclass(slots=True)
class Node:
    """What a test may change."""

    capacity: dict[str, str] = field(
        default_factory=lambda: {"cpu": "64", "memory": "512Gi", "nvidia.com/gpu": "8", "ephemeral-storage": "1Ti"}
    )
    labels: dict[str, str] | None = None
    """None: it has whichever label a pod asks for."""
    absent: set[str] = field(default_factory=set)
    """Images that no registry has."""
    binds: bool = True
    """Whether claims get their volume."""


def fault(objects: Objects, node: Node, pod: Object) -> str:
    """Why it is not scheduled; "" where it is."""
    namespace = pod["metadata"]["namespace"]
    for name in needs.claims(pod):
        claim = objects.get(kinds.CLAIM, namespace, name)
        if claim is None:
            return f'0/2 nodes are available: persistentvolumeclaim "{name}" not found. not found'
        if claim["status"].get("phase") != "Bound":
            return f"0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims. {_PREEMPTION}"
    selector = pod["spec"].get("nodeSelector") or {}
    reasons = []
    if node.labels is not None and not selector.items() <= node.labels.items():
        reasons.append("1 node(s) didn't match Pod's node affinity/selector")
    used = _asked(
        [one for one in objects.look(kinds.POD) if one["spec"].get("nodeName") and one is not pod], set(node.capacity)
    )
    for resource, amount in _asked([pod], None).items():
        if used.get(resource, Decimal(0)) + amount > quantity(node.capacity.get(resource, "0")):
            reasons.append(f"1 Insufficient {resource}")
    if not reasons:
        return ""
    reasons.append("1 node(s) were unschedulable")
    return f"0/2 nodes are available: {', '.join(sorted(reasons))}. {_PREEMPTION}"


def _asked(pods: list[Object], of: set[str] | None) -> dict[str, Decimal]:
    total: dict[str, Decimal] = {}
    for pod in pods:
        sidecars = [one for one in pod["spec"].get("initContainers", []) if one.get("restartPolicy") == "Always"]
        for one in [*sidecars, *pod["spec"]["containers"]]:
            for resource, amount in (one["resources"].get("requests") or {}).items():
                if of is None or resource in of:
                    total[resource] = total.get(resource, Decimal(0)) + quantity(amount)
    return total


_ORDER = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")


def condition(status: Object, type_: str, said: str, reason: str = "", message: str = "") -> bool:
    """Sets a condition of a pod. Whether that changes anything."""
    found = status.setdefault("conditions", [])
    made: Object = {"type": type_, "observedGeneration": 1, "status": said, "lastProbeTime": None}
    before = next((one for one in found if one["type"] == type_), None)
    changed = before is None or before["status"] != said
    made["lastTransitionTime"] = stamp() if before is None or changed else before["lastTransitionTime"]
    made |= {key: value for key, value in (("reason", reason), ("message", message)) if value}
    if before == made:
        return False
    found[:] = sorted(
        [one for one in found if one["type"] != type_] + [made], key=lambda one: _ORDER.index(one["type"])
    )
    return True
