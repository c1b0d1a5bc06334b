"""Follows the logs of all pods of a run at once, those that come later included, until the run has ended.

A thread for each pod (log_reader.py); the pods are looked at by the thread of whoever asks for the next line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.log_reader import PATIENCE_S, Lines, Reader
from modelserve.deploy.kubernetes.log_titles import Titles
from modelserve.deploy.target import LogsAsked
from modelserve.errors import TargetUnreachable

_LOOK_S = 2.0
"""Between two looks at the pods; one that has begun to write since loses nothing by it."""
_ROOM = 1000
"""Lines that wait for a slow reader; then the cluster waits."""
_FINISHED = ("Succeeded", "Failed")
_LAST_S = 30.0
"""For the last lines, after the run has ended."""
_JOIN_S = 1.0
"""For the threads, which have been told to end; one that waits for a cluster that says nothing ends later."""


def follow(cluster: Cluster, labels: str, asked: LogsAsked, has_ended: Callable[[], bool]) -> Iterator[str]:
    """Raises TargetRefused where a log may not be read, TargetUnreachable after a minute without an answer."""
    following = _Following(cluster, labels, asked)
    try:
        ended = has_ended()
        following.look()
        answered = time.monotonic()
        while not ended:
            yield from following.lines(_LOOK_S)
            try:
                ended = has_ended()
                following.look()
                answered = time.monotonic()
            except TargetUnreachable:
                if time.monotonic() - answered > PATIENCE_S:
                    raise
        following.finish()
        yield from following.rest(_LAST_S)
    finally:
        following.end()


class _Following:
    """The readers of the pods that have been seen."""

    def __init__(self, cluster: Cluster, labels: str, asked: LogsAsked) -> None:
        self._cluster = cluster
        self._labels = labels
        self._asked = asked
        self._lines = Lines(_ROOM)
        self._titles = Titles()
        self._readers: dict[str, Reader] = {}
        """By the pod's uid: names are given again."""

    def look(self) -> None:
        """Begin to read the pods that are new, and no longer wait for those that are gone or finished."""
        pods, _ = self._cluster.list("Pod", self._labels)
        found = {str(pod["metadata"].get("uid") or pod["metadata"]["name"]): pod for pod in pods}
        for uid, pod in found.items():
            if uid not in self._readers:
                self._readers[uid] = Reader(self._cluster, pod, self._asked, self._lines)
                self._titles.add(self._readers[uid].name)
        # The tail of a log, or its last seconds, are of what was there at the beginning.
        self._asked = LogsAsked(container=self._asked.container)
        for uid, reader in self._readers.items():
            if uid not in found or (found[uid].get("status") or {}).get("phase") in _FINISHED:
                reader.finish()
        for uid in [uid for uid, reader in self._readers.items() if uid not in found and reader.done]:
            del self._readers[uid]

    def lines(self, timeout_s: float) -> Iterator[str]:
        """Those that come within so long."""
        until = time.monotonic() + timeout_s
        while (left := until - time.monotonic()) > 0:
            yield from self._taken(left)

    def rest(self, timeout_s: float) -> Iterator[str]:
        """Those that come until all logs have been read."""
        until = time.monotonic() + timeout_s
        while not all(reader.done for reader in self._readers.values()) and time.monotonic() < until:
            yield from self._taken(until - time.monotonic())
        yield from self._taken(0.0)

    def finish(self) -> None:
        for reader in self._readers.values():
            reader.finish()

    def end(self) -> None:
        """Nobody reads on: the threads end."""
        self._lines.end()
        self.finish()
        until = time.monotonic() + _JOIN_S
        for reader in self._readers.values():
            reader.join(max(0.0, until - time.monotonic()))

    def _taken(self, timeout_s: float) -> Iterator[str]:
        for pod, line in self._lines.take(timeout_s):
            yield self._titles.of(pod) + line
