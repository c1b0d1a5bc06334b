"""What the objects of a run, as they are now, say about it: does it answer, will it, and if not, why. Pure.

`observedGeneration` is read before any status: an older status is that of another specification.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from modelserve.deploy.kubernetes import trouble
from modelserve.deploy.kubernetes.trouble import Trouble, is_over
from modelserve.deploy.manifests.labels import BEGUN
from modelserve.deploy.states import State

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """kind: of what serves the run, "Deployment" or "InferenceService"; serving: that object, None where there is
    none. events: by the pod's name, oldest first. behind: the same of the Triton behind it, where that has pods of its
    own."""

    kind: str
    serving: Json | None
    pods: tuple[Json, ...]
    events: dict[str, list[Json]]
    behind: Snapshot | None = None


class Verdict(NamedTuple):
    """suspect: the pod whose log tells more, "" where none does. previous, patience, container: see Trouble."""

    state: State
    message: str = ""
    stage: str = ""
    fraction: float = 0.0
    suspect: str = ""
    previous: bool = False
    patience: bool = False
    container: str = ""


def of(seen: Snapshot, *, was_running: bool) -> Verdict:
    """was_running: whether all pods have answered since the run was started or changed; some are enough then."""
    own = _of_one(seen, was_running)
    return own if seen.behind is None else _joint(own, _of_one(seen.behind, was_running), was_running)


def _joint(own: Verdict, behind: Verdict, was_running: bool) -> Verdict:
    """Of a server and the Triton behind it. As long as that does not answer, no server does: it is the cause then."""
    said = f"Triton: {behind.message}" if behind.message and not behind.message.startswith("Triton") else behind.message
    fraction = (own.fraction + behind.fraction) / 2
    if own.state == "RUNNING" and (was_running or behind.state == "RUNNING"):
        return own._replace(message="; ".join(one for one in (own.message, said) if one))
    if behind.state == "RUNNING" or (own.state == "ERROR" and behind.state != "ERROR"):
        return own._replace(fraction=fraction)
    return behind._replace(message=said, stage=f"Triton: {behind.stage}", fraction=fraction)


def _of_one(seen: Snapshot, was_running: bool) -> Verdict:
    serving = seen.serving
    if serving is None or serving["metadata"].get("deletionTimestamp"):
        return Verdict("ERROR", f"its {seen.kind} is not in the cluster any more: somebody has removed it")
    generation, observed = serving["metadata"].get("generation", 0), _status(serving).get("observedGeneration", 0)
    if seen.kind == "Deployment":
        answers = any(map(is_ready, current(seen.pods, serving["spec"]["template"])))
        if observed < generation and not (was_running and answers):
            return Verdict("PENDING", stage="waiting for the cluster")
        return _of_deployment(seen, serving, was_running)
    if "observedGeneration" in _status(serving) and observed < generation:
        return Verdict("PENDING", stage="waiting for the cluster")
    return _of_inference_service(seen, serving, was_running)


def current(pods: Sequence[Json], template: Json) -> list[Json]:
    """Those pods that are as the run is now, not what a former start or an update has left."""
    mark = _annotations(template).get(BEGUN)
    there = [pod for pod in pods if not pod["metadata"].get("deletionTimestamp") and not is_over(pod)]
    return [pod for pod in there if _annotations(pod).get(BEGUN) == mark]


def has_former(seen: Snapshot) -> bool:
    """Whether pods of a former start or change still run, be it that they only end."""
    serving = seen.serving or {}
    mark = _annotations((serving.get("spec") or {}).get("template") or {}).get(BEGUN)
    return any(_annotations(pod).get(BEGUN) != mark for pod in seen.pods if not is_over(pod))


def is_ready(pod: Json) -> bool:
    conditions = _status(pod).get("conditions") or ()
    ready = any(one.get("type") == "Ready" and one.get("status") == "True" for one in conditions)
    return ready and not pod["metadata"].get("deletionTimestamp")


def _of_deployment(seen: Snapshot, serving: Json, was_running: bool) -> Verdict:
    status, wanted = _status(serving), int(serving["spec"].get("replicas", 1))
    if wanted == 0:
        return Verdict("PENDING", "somebody has scaled it to zero; scale it, or stop and resume it", "no pods")
    counts = {name: int(status.get(name) or 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
    pods = current(seen.pods, serving["spec"]["template"])
    if set(counts.values()) == {wanted}:
        return Verdict("RUNNING", stage="ready", fraction=1.0)
    answering = counts["availableReplicas"]
    far = f"{min(answering, wanted)} of {wanted} pods answer"
    if counts["replicas"] > counts["updatedReplicas"]:
        far += f", {counts['replicas'] - counts['updatedReplicas']} are as before the change"
    found, pod = _worst(pods, seen)
    if was_running and any(map(is_ready, pods)):
        return _in_part(far, found)
    for condition in status.get("conditions") or ():
        if condition.get("type") == "ReplicaFailure" and condition.get("status") == "True":
            return Verdict("ERROR", f"the cluster makes no pods for it: {condition.get('message')}")
    stage = f"{found.stage}, {far}" if pods else "waiting for pods"
    if found.fatal or found.patience:
        return _held_up(found, stage, pod)
    for condition in status.get("conditions") or ():
        if condition.get("reason") == "ProgressDeadlineExceeded" and condition.get("status") == "False":
            why = found.message or f"{far}, the others are {found.stage}"
            return Verdict("ERROR", f"its pods did not answer in time: {why}", stage, found.fraction, pod)
    return Verdict("PENDING", found.message or far, stage, _mean(pods, seen, wanted))


def _of_inference_service(seen: Snapshot, serving: Json, was_running: bool) -> Verdict:
    """KServe's controller makes what serves it; the pods are ours to look at: it says Ready all through an update."""
    conditions = _status(serving).get("conditions") or ()
    ready: Json = next((one for one in conditions if one.get("type") == "Ready"), {})
    predictor = serving["spec"]["predictor"]
    template = {"metadata": {"annotations": predictor.get("annotations") or {}}}
    pods = current(seen.pods, template)
    answering = sum(map(is_ready, pods))
    found, pod = _worst(pods, seen)
    wanted = max(1, int(predictor.get("minReplicas") or 1))
    if ready.get("status") == "True" and answering >= wanted:
        return Verdict("RUNNING", stage="ready", fraction=1.0)
    if was_running and answering:
        return _in_part(f"{answering} of {wanted} pods answer", found)
    said = ready.get("message") or ""
    stage = found.stage if pods else "waiting for pods"
    message = found.message or (f"KServe: {said}" if said else "")
    if found.fatal or found.patience:
        return _held_up(found, stage, pod)
    return Verdict("PENDING", message, stage, _mean(pods, seen, len(pods)))


def _in_part(far: str, found: Trouble) -> Verdict:
    """Some pods of a run that has been up answer."""
    return Verdict("RUNNING", f"{far}: {found.message}" if found.message else far, "ready", 1.0)


def _held_up(found: Trouble, stage: str, pod: str) -> Verdict:
    state: State = "ERROR" if found.fatal else "PENDING"
    return Verdict(state, found.message, stage, found.fraction, pod, found.previous, found.patience, found.container)


def _worst(pods: Sequence[Json], seen: Snapshot) -> tuple[Trouble, str]:
    """What keeps the pods from answering that do not, the most hopeless first, with the pod's name."""
    found = [(_trouble(pod, seen), pod["metadata"]["name"]) for pod in pods if not is_ready(pod)]
    if not found:
        return Trouble("", "starting"), ""
    return max(found, key=lambda one: (one[0].fatal, one[0].patience, bool(one[0].message), -one[0].fraction))


def _mean(pods: Sequence[Json], seen: Snapshot, wanted: int) -> float:
    far = [1.0 if is_ready(pod) else _trouble(pod, seen).fraction for pod in pods]
    return sum(far) / max(wanted, len(far), 1)


def _trouble(pod: Json, seen: Snapshot) -> Trouble:
    return trouble.of(pod, seen.events.get(pod["metadata"]["name"], ()))


def _status(one: Json) -> Json:
    return one.get("status") or {}


def _annotations(one: Json) -> Json:
    return (one.get("metadata") or {}).get("annotations") or {}
