"""Reads what there is of a run in its cluster, in as few requests as tell what matters."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from modelserve.deploy.kubernetes import applied
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.diagnosis import Snapshot, is_ready
from modelserve.errors import TargetRefused

_MOST_PODS = 4
"""Whose events are read: one pod that does not answer mostly says what keeps the others from it."""
Json = dict[str, Any]


def take(cluster: Cluster, run: str, kind: str, name: str, behind: str) -> Snapshot:
    """kind and name: of what serves the run; behind: name of the Deployment of the Triton behind it, "" where it has
    none of its own. Raises TargetRefused, TargetUnreachable."""
    triton = _of(cluster, "Deployment", behind, applied.triton_selector(run)) if behind else None
    return dataclasses.replace(_of(cluster, kind, name, applied.selector(run)), behind=triton)


def _of(cluster: Cluster, kind: str, name: str, labels: str) -> Snapshot:
    serving = cluster.get(kind, name)
    pods = sorted(cluster.list("Pod", labels)[0], key=_age) if serving is not None else []
    waiting = [pod["metadata"]["name"] for pod in pods if not is_ready(pod)]
    return Snapshot(kind, serving, tuple(pods), {pod: _events(cluster, pod) for pod in waiting[-_MOST_PODS:]})


def _events(cluster: Cluster, pod: str) -> list[Json]:
    """Oldest first; none where this user may not read them, since pods say most themselves."""
    try:
        found: Sequence[Json] = cluster.list("Event", fields=f"involvedObject.name={pod}")[0]
    except TargetRefused as error:
        if error.status == 403:
            return []
        raise
    return sorted(found, key=_last_time)


def _last_time(event: Json) -> str:
    series = event.get("series") or {}
    said = series.get("lastObservedTime") or event.get("lastTimestamp") or event.get("eventTime")
    return str(said or event["metadata"].get("creationTimestamp") or "")


def _age(pod: Json) -> tuple[str, str]:
    return str(pod["metadata"].get("creationTimestamp") or ""), str(pod["metadata"]["name"])
