"""The Triton behind a run, where it has pods of its own: a Deployment and a Service beside the server's.

It begins with the server and ends after it. Blocking, and bounded; the caller's thread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelserve.deploy.kubernetes import applied
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.manifests.names import behind, resource_name
from modelserve.deploy.manifests.predictor import is_apart
from modelserve.deploy.record import Record
from modelserve.deploy.reference import parse_function_string

LEAVES = "leaves"
"""In a run's status: it has no such Triton any more, but its former pods ask the one that is still there."""


def name_of(record: Record) -> str:
    """Of its objects, whether they are there or not."""
    return behind(resource_name(record.project, parse_function_string(record.spec["function"]).name, record.id))


def has(record: Record) -> bool:
    """Whether it is in the cluster, maybe as what a former specification has left."""
    return is_apart(record.spec) or LEAVES in record.status


def leaves(record: Record, spec: Mapping[str, Any]) -> bool | None:
    """Whether it is there and not in the spec that comes; a fact, None where that is not so."""
    return True if has(record) and not is_apart(spec) else None


def empty(cluster: Cluster, record: Record) -> None:
    """No pods of it."""
    if has(record) and cluster.get("Deployment", name_of(record)) is not None:
        cluster.scale("Deployment", name_of(record), 0)


def prune(cluster: Cluster, record: Record, wanted: Sequence[str], *, leaves: bool | None) -> None:
    """What the run had before and has no more; disks stay, since they have something on them. wanted: titles. leaves:
    this Triton stays, too."""
    for one in applied.found(cluster, record.id):
        kept = one["kind"] == "PersistentVolumeClaim" or (leaves and one["metadata"]["name"] == name_of(record))
        if applied.title(one) not in wanted and not kept:
            cluster.delete(one["kind"], one["metadata"]["name"])
