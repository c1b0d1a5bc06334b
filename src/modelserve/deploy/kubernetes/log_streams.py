"""The logs of a run's pods: what they have written, and what they write. The thread of whoever asks for the next line.

Where there is more than one pod, each line begins with "END | ", the end of the pod's name (log_titles.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from modelserve.deploy.kubernetes import log_follow, log_request
from modelserve.deploy.kubernetes.cluster import Cluster, Json
from modelserve.deploy.kubernetes.log_titles import Titles
from modelserve.deploy.target import LogsAsked
from modelserve.errors import TargetRefused


def read(cluster: Cluster, labels: str, asked: LogsAsked, has_ended: Callable[[], bool] | None) -> Iterator[str]:
    """Of all pods with these labels. Without `has_ended` one pod after the other, the oldest first, up to now; with it
    all at once, on and on until it says so. What ran before (`previous`) has ended, and is never followed.

    A container that has not begun has no lines. Raises TargetRefused where no pod has such a container, or none that
    ran before; TargetUnreachable.
    """
    if has_ended is None or asked.previous:
        return _so_far(cluster, labels, asked)
    return log_follow.follow(cluster, labels, asked, has_ended)


def last_lines(cluster: Cluster, pod: str, count: int, previous: bool, container: str = "") -> list[str]:
    """Of one container of a pod, "" for the server's, for somebody who is told why it does not answer. previous: of the
    one before, or of this one where there was none. [] where there is no log to be had. Raises TargetUnreachable."""
    try:
        found = cluster.get("Pod", pod)
        if found is None:
            return []
        query = {"container": log_request.container_of(found, container), "tailLines": str(count)}
        if previous:
            try:
                return _all(cluster, pod, query | {"previous": "true"})
            except TargetRefused as error:
                if error.status != 400:
                    return []
        return _all(cluster, pod, query)
    except TargetRefused:
        return []


def _all(cluster: Cluster, pod: str, query: dict[str, str]) -> list[str]:
    with cluster.log(pod, query) as stream:
        return [log_request.text(line) for line in stream]


def _so_far(cluster: Cluster, labels: str, asked: LogsAsked) -> Iterator[str]:
    pods, _ = cluster.list("Pod", labels)
    pods.sort(key=lambda pod: (str(pod["metadata"].get("creationTimestamp")), str(pod["metadata"]["name"])))
    titles = Titles()
    for pod in pods:
        titles.add(str(pod["metadata"]["name"]))
    refused, answered = None, False
    for pod in pods:
        try:
            yield from _pod(cluster, pod, asked, titles)
            answered = True
        except TargetRefused as error:
            if error.status in (401, 403):
                raise
            # Gone since, or not begun: no lines. Anything else is said when the other pods have been read.
            if error.status != 404 and not log_request.is_not_yet(error):
                refused = refused or error
    if refused is not None and not (answered and refused.status == 400):
        raise refused


def _pod(cluster: Cluster, pod: Json, asked: LogsAsked, titles: Titles) -> Iterator[str]:
    name = str(pod["metadata"]["name"])
    query = log_request.last(asked.tail, asked.since_s)
    query |= {"container": log_request.container_of(pod, asked.container)}
    query |= {"previous": "true"} if asked.previous else {}
    with cluster.log(name, query) as stream:
        for line in stream:
            yield titles.of(name) + log_request.text(line)
