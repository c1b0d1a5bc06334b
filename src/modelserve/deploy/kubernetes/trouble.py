"""What keeps a pod from answering, as one sentence, and whether waiting longer would help. Pure.

A pod never turns "failed" by itself: the reason is in its containers, its conditions, or its events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from modelserve.deploy.manifests.triton import NAME as TRITON

Json = dict[str, Any]

_IMAGE = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName", "ImageInspectError")
_CONFIG = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "StartError")
_MISSING = re.compile(r"""(persistentvolumeclaim|secret|configmap) "[^"]*" not found""")
_HOPELESS = re.compile(rf"{_MISSING.pattern}|couldn't find key|non-root|executable file not found")
_NOT_MOUNTED = ("FailedMount", "FailedAttachVolume")
_NODE_COMES = ("TriggeredScaleUp", "Nominated")
"""The words of the cluster's autoscaler, and of Karpenter."""
_ON_THE_WAY = ("FailedCreatePodSandBox", "Unhealthy", *_NOT_MOUNTED)
_MOST = 400
"""Characters of somebody else's message: some list every node."""


class Trouble(NamedTuple):
    """message: "" where there is none, and the pod is only not ready yet.

    fatal: the cluster goes on trying, but nothing will come of it unless somebody changes something. patience: it is
    fatal where it stays so for a while, since nodes and disks may be on their way. container: the one whose log tells
    more, "" for the server's; previous: the log of the one before it.
    """

    message: str
    stage: str
    fraction: float = 0.0
    fatal: bool = False
    patience: bool = False
    previous: bool = False
    container: str = ""


def is_over(pod: Json) -> bool:
    """Whether it runs nothing any more, though it is there: a node has thrown it out, and nobody removes it."""
    return (pod.get("status") or {}).get("phase") in ("Succeeded", "Failed")


def of(pod: Json, events: Sequence[Json]) -> Trouble:
    """events: those of the pod, oldest first."""
    status = pod.get("status") or {}
    name = pod["metadata"]["name"]
    for one in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        if (found := _of_container(name, one, events)) is not None:
            return found
    if (found := _unscheduled(status, events)) is not None:
        return found
    if status.get("phase") == "Failed":
        why = ": ".join(str(status[key]) for key in ("reason", "message") if status.get(key))
        return Trouble(f"the pod {name} has failed" + (f": {_cut(why)}" if why else ""), "starting")
    stage, fraction = _far(status, events)
    return _on_the_way(events, stage, fraction)


def _far(status: Json, events: Sequence[Json]) -> tuple[str, float]:
    """How far a pod is that nothing is known to be wrong with."""
    if any("running" in (one.get("state") or {}) for one in status.get("containerStatuses") or ()):
        return "loading", 0.6
    for one in status.get("initContainerStatuses") or ():
        if one.get("name") == TRITON and "running" in (one.get("state") or {}):
            return "loading Triton's models", 0.5  # a sidecar, for which the server waits
    return _before(events)


def _of_container(pod: str, one: Json, events: Sequence[Json]) -> Trouble | None:
    state = one.get("state") or {}
    waiting = state.get("waiting") or {}
    reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
    ended = state.get("terminated") or (one.get("lastState") or {}).get("terminated") or {}
    restarts = int(one.get("restartCount") or 0)
    ends = restarts if "running" in state else restarts + 1
    name = str(one.get("name") or "")
    who = "Triton" if name == TRITON else "the server"
    if reason in _IMAGE:
        why = _pull_failure(events) or message or reason
        return Trouble(
            f"the image {one.get('image')} cannot be pulled: {_cut(why)}",
            "pulling the image",
            0.2,
            fatal=reason != "ErrImagePull",  # the first failure of a pull is tried again at once
        )
    if reason in _CONFIG:
        why = _cut(message or reason)
        hopeless = _HOPELESS.search(why) is not None  # else a node that is busy, which may mend itself
        told = f"the container {one.get('name')} cannot be made: {why}"
        return Trouble(told, "starting", 0.3, fatal=hopeless, patience=not hopeless)
    if one.get("ready") or not ended:
        return None
    if ended.get("reason") == "OOMKilled":
        before = not state.get("terminated")
        where = "resources mem" + (" of triton" if name == TRITON else "")
        return Trouble(
            f"{who} in the pod {pod} took more memory than its limit and was killed (OOMKilled), {_times(ends)}; "
            f"give it more with {where}",
            "starting",
            0.4,
            fatal=True,
            previous=before,
            container=name,
        )
    loops = reason == "CrashLoopBackOff" or (restarts > 0 and bool(state.get("terminated")) and ended.get("exitCode"))
    if loops:
        return Trouble(
            f"{who} in the pod {pod} ends with exit code {ended.get('exitCode')}, {_times(ends)}" + _probe_said(events),
            "starting",
            0.4,
            fatal=True,
            previous=restarts > 0 and not state.get("terminated"),
            container=name,
        )
    return None


def _unscheduled(status: Json, events: Sequence[Json]) -> Trouble | None:
    for one in status.get("conditions") or ():
        if one.get("type") != "PodScheduled" or one.get("status") != "False":
            continue
        said = _cut(str(one.get("message") or one.get("reason") or ""))
        stage = "waiting for a node"
        if one.get("reason") != "Unschedulable":
            return Trouble("", stage)
        message = f"no node of the cluster takes the pod: {said}"
        if _MISSING.search(said):
            return Trouble(message, stage, fatal=True)
        more = any(event.get("reason") in _NODE_COMES for event in events)
        return Trouble("a node for the pod is being made" if more else message, stage, patience=not more)
    return None


def _on_the_way(events: Sequence[Json], stage: str, fraction: float) -> Trouble:
    for event in reversed(events):
        reason, said = event.get("reason"), _cut(str(event.get("message") or ""))
        if reason in ("Started", "Pulled") and stage != "loading":
            break  # what was in the way before is not any more
        if reason in _ON_THE_WAY and event.get("type") == "Warning":
            fatal = reason in _NOT_MOUNTED and _MISSING.search(said) is not None
            return Trouble(said, stage, fraction, fatal=fatal)
    return Trouble("", stage, fraction)


def _before(events: Sequence[Json]) -> tuple[str, float]:
    """How far a pod is whose container does not run yet."""
    reasons = {event.get("reason") for event in events}
    if "Pulled" in reasons:
        return "starting", 0.4
    return ("pulling the image", 0.2) if "Pulling" in reasons else ("starting", 0.1)


def _pull_failure(events: Sequence[Json]) -> str:
    """The registry's own words, which a container that waits for the next try does not have any more."""
    said = (str(event.get("message") or "") for event in reversed(events) if event.get("reason") == "Failed")
    return next((one for one in said if one.startswith("Failed to pull image")), "")


def _probe_said(events: Sequence[Json]) -> str:
    """Why the cluster itself has ended the container, where it has."""
    for event in reversed(events):
        if event.get("reason") == "Killing" and "probe" in str(event.get("message")):
            return f"; {_cut(str(event['message']))}"
    return ""


def _times(count: int) -> str:
    return f"{count} times so far" if count > 1 else "once so far"


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _MOST else text[: _MOST - 1] + "…"
