"""Rings when something of a run changes in its cluster. What has changed is then read anew: a ring says only "look".

So a watch that breaks off, is cut or has expired (410) loses nothing; it is set up again from a new list. Two daemon
threads.
"""

from __future__ import annotations

import json
import logging
import threading
from typing import TYPE_CHECKING

from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.stream import Stream
from modelserve.errors import TargetError

if TYPE_CHECKING:
    from typing import Self

log = logging.getLogger(__name__)

_WATCH_S = 240
"""A watch ends by itself after so long: proxies cut connections that are silent for five minutes."""
_PAUSE_S = 1.0
"""Between two tries where there is no watch to be had."""
_AFTER_S = 0.1
"""Between a watch that has ended and the next."""
_LOOK_S = 3.0
"""Without a ring, one looks after so long: events have no labels, so no watch tells of them."""


class Doorbell:
    """Of the objects of these kinds with these labels. A context manager."""

    def __init__(self, cluster: Cluster, kinds: tuple[str, ...], labels: str) -> None:
        self._cluster = cluster
        self._labels = labels
        self._rung = threading.Event()
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._streams: dict[str, Stream] = {}
        self._threads = [
            threading.Thread(target=self._work, args=(kind,), name=f"watch {kind}", daemon=True) for kind in kinds
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self._over.set()
            for stream in self._streams.values():
                stream.end()
        for thread in self._threads:
            thread.join(timeout=_PAUSE_S)

    def wait(self, pause_s: float, most_s: float) -> None:
        """Until it rings, not before `pause_s`, and no longer than `most_s`."""
        pause_s = min(pause_s, most_s)
        self._over.wait(pause_s)
        self._rung.wait(max(0.0, min(_LOOK_S, most_s) - pause_s))
        self._rung.clear()

    def _work(self, kind: str) -> None:
        version = ""
        while not self._over.is_set():
            try:
                if not version:
                    version = self._cluster.list(kind, self._labels)[1]
                    self._rung.set()
                version = self._watched(kind, version)
            except (TargetError, ValueError, KeyError) as error:  # also half a line, where a proxy has cut it
                log.debug("no watch of %s: %s", kind, error)
                version = ""
            self._over.wait(_PAUSE_S if not version else _AFTER_S)

    def _watched(self, kind: str, version: str) -> str:
        """One watch, to its end. The version from which the next one goes on; "" after a 410."""
        stream = self._cluster.watch(kind, self._labels, version, _WATCH_S)
        with stream:
            with self._lock:
                self._streams[kind] = stream
                if self._over.is_set():
                    return version
            for line in stream:
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return ""
                version = event["object"]["metadata"]["resourceVersion"]
                if event["type"] != "BOOKMARK":
                    self._rung.set()
        return version
