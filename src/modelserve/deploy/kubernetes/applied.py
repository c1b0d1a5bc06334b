"""The objects of a run in its cluster: put there, found by the run's label, taken away. Nothing else is touched.

Blocking and bounded.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.resources import OWNED, RESOURCES
from modelserve.deploy.kubernetes.trouble import is_over
from modelserve.deploy.manifests.labels import OURS, RUN, triton_value
from modelserve.deploy.manifests.names import label_value
from modelserve.deploy.manifests.service import ALIAS
from modelserve.errors import TargetError, TargetRefused

_LOOK_S = 0.5
Json = dict[str, Any]


def selector(run: str) -> str:
    """The label that every object of the run has, and its server's pods."""
    return f"{RUN}={label_value(run)}"


def triton_selector(run: str) -> str:
    """What the pods of the Triton behind a run have, where it has its own."""
    return f"{RUN}={triton_value(run)}"


def all_selector(run: str) -> str:
    """Every object and every pod of the run."""
    return f"{RUN} in ({label_value(run)},{triton_value(run)})"


def title(manifest: Json) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def is_alias(manifest: Json) -> bool:
    """Whether it is the Service with a stable name, which moves from run to run."""
    return ALIAS in manifest["metadata"].get("labels", {})


def check(cluster: Cluster, manifests: Sequence[Json], *, force: bool) -> list[Json]:
    """The objects as the cluster would have them; it changes nothing. Raises TargetRefused, TargetError."""
    for manifest in manifests:
        if is_alias(manifest):
            _check_alias(cluster, manifest)
    return [cluster.apply(manifest, dry_run=True, force=force) for manifest in manifests]


def apply(cluster: Cluster, manifests: Sequence[Json], *, force: bool) -> None:
    """Put them there, in order. What was there stays as it was where one is refused; what was not, is not."""
    made: list[Json] = []
    try:
        for manifest in manifests:
            # Asked before: an answer that says "created" may be lost, and the next one says "changed".
            if cluster.get(manifest["kind"], manifest["metadata"]["name"]) is None:
                made.append(manifest)
            cluster.apply(manifest, force=force)
    except TargetError:
        for manifest in reversed(made):
            cluster.delete(manifest["kind"], manifest["metadata"]["name"])
        raise


def found(cluster: Cluster, run: str) -> list[Json]:
    """All objects of the run, in the order in which they are removed; with what lists leave out of them. Without what
    a controller has made of them, which goes when they do."""
    return [one for one in _labelled(cluster, run) if not is_owned(one)]


def is_owned(one: Json) -> bool:
    """Whether another object's controller has made it: KServe's have the labels and notes of what they are made of."""
    return bool(one["metadata"].get("ownerReferences"))


def remove(cluster: Cluster, run: str, timeout_s: float) -> None:
    """Everything that has the run's label, and wait until it is gone. Raises TargetError where that takes longer."""
    for one in found(cluster, run):
        cluster.delete(one["kind"], one["metadata"]["name"])
    deadline = time.monotonic() + timeout_s
    while left := [title(one) for one in _left(cluster, run)]:
        if time.monotonic() >= deadline:
            raise TargetError(
                f"after {timeout_s:g} s there is still {', '.join(left)} of the run in the namespace "
                f"{cluster.place.namespace}; delete it again when that is gone"
            )
        time.sleep(_LOOK_S)


def wait_for_pods_to_end(cluster: Cluster, labels: str, timeout_s: float) -> None:
    """Raises TargetError."""
    deadline = time.monotonic() + timeout_s
    while pods := [pod for pod in cluster.list("Pod", labels)[0] if not is_over(pod)]:
        if time.monotonic() >= deadline:
            names = ", ".join(pod["metadata"]["name"] for pod in pods)
            raise TargetError(f"after {timeout_s:g} s there are still pods of the run: {names}; stop it again later")
        time.sleep(_LOOK_S)


def _labelled(cluster: Cluster, run: str) -> list[Json]:
    return [
        one | {"apiVersion": RESOURCES[kind].api_version, "kind": kind}
        for kind in OWNED
        for one in listed(cluster, kind, selector(run))
    ]


def _left(cluster: Cluster, run: str) -> Iterator[Json]:
    yield from _labelled(cluster, run)
    yield from (one | {"kind": "Pod"} for one in cluster.list("Pod", all_selector(run))[0])


def listed(cluster: Cluster, kind: str, labels: str) -> list[Json]:
    """None of a kind that the cluster does not know, or that this user may not list and so has not made either."""
    try:
        return cluster.list(kind, labels)[0]
    except TargetRefused as error:
        if error.status == 404 or (error.status == 403 and error.reason == "Forbidden"):
            return []
        raise


def _check_alias(cluster: Cluster, manifest: Json) -> None:
    """A stable name is one function's. Raises TargetError where it is another's, or no Service of ours."""
    name = manifest["metadata"]["name"]
    there = cluster.get("Service", name)
    if there is None:
        return
    own, other = manifest["metadata"]["labels"], there["metadata"].get("labels") or {}
    if any(other.get(OURS + key) != own.get(OURS + key) for key in ("project", "function")):
        whose = other.get(OURS + "function")
        raise TargetError(
            f"service_name is {name!r}, which is "
            + (f"the service of the function {whose}" if whose else "a Service that modelserve has not made")
            + f" in the namespace {cluster.place.namespace}; give another"
        )
