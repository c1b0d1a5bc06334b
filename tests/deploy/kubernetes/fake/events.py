"""The cluster's events, as the recorded ones: the same again is counted. Whoever calls holds the store's lock."""

from __future__ import annotations

import random

from tests.deploy.kubernetes.fake import kinds
from tests.deploy.kubernetes.fake.kinds import Object
from tests.deploy.kubernetes.fake.objects import Objects, fine_stamp, stamp

NODE = "localhost"


def _about(found: Object, container: str, part: str) -> Object:
    metadata = found["metadata"]
    about = {
        "kind": found["kind"], "namespace": metadata["namespace"], "name": metadata["name"], "uid": metadata["uid"],
        "apiVersion": found["apiVersion"], "resourceVersion": metadata["resourceVersion"],
    }  # fmt: skip
    return about | {"fieldPath": f"spec.{part}{{{container}}}"} if container else about


def tell(
    objects: Objects, found: Object, reason: str, message: str, *, warning: bool = False, component: str = "kubelet",
    container: str = "", part: str = "containers",
) -> None:  # fmt: skip
    """component: kubelet, default-scheduler, or a controller."""
    metadata = found["metadata"]
    for one in objects.look(kinds.EVENT):
        about = one["involvedObject"]
        if (about["uid"], one["reason"], one["message"]) == (metadata["uid"], reason, message):
            again = objects.get(kinds.EVENT, metadata["namespace"], one["metadata"]["name"])
            if again is not None and "count" in again:
                objects.put(kinds.EVENT, again | {"count": again["count"] + 1, "lastTimestamp": stamp()})
            return
    event: Object = {
        "kind": "Event", "apiVersion": "v1",
        "metadata": {
            "name": f"{metadata['name']}.{random.getrandbits(60):016x}", "namespace": metadata["namespace"],
        },
        "involvedObject": _about(found, container, part), "reason": reason, "message": message,
    }  # fmt: skip
    kind = "Warning" if warning else "Normal"
    if component == "default-scheduler":
        event |= {
            "source": {}, "firstTimestamp": None, "lastTimestamp": None, "type": kind, "eventTime": fine_stamp(),
            "action": "Scheduling" if warning else "Binding", "reportingComponent": component,
            "reportingInstance": f"{component}-vm",
        }  # fmt: skip
    else:
        host = {"host": NODE} if component == "kubelet" else {}
        event |= {
            "source": {"component": component} | host, "firstTimestamp": stamp(), "lastTimestamp": stamp(), "count": 1,
            "type": kind, "eventTime": None, "reportingComponent": component,
            "reportingInstance": host.get("host", ""),
        }  # fmt: skip
    objects.add(kinds.EVENT, event)
