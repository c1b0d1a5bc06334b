"""Follows the log of one pod, over cuts of the connection and restarts of the container, on a thread of its own.

What it reads goes into a funnel, with the pod's name. Knows no other pod.
"""

from __future__ import annotations

import threading
import time

from modelserve.deploy.kubernetes import log_request
from modelserve.deploy.kubernetes.cluster import Cluster, Json
from modelserve.deploy.kubernetes.funnel import Funnel
from modelserve.deploy.kubernetes.log_position import Position
from modelserve.deploy.kubernetes.stream import Stream
from modelserve.deploy.target import LogsAsked
from modelserve.errors import TargetError, TargetRefused, TargetUnreachable

PATIENCE_S = 60.0
"""How long a cluster, or the node of a pod, may not answer before that is an error."""
_PAUSE_S = 1.0
"""Between two looks at a container that has ended or has not begun, and two tries where nobody answers."""
_LAST_TRIES = 3
_HOPELESS = (400, 401, 403)
"""Such as a container that the pod does not have, or a right that is missing: no better the next time."""
Lines = Funnel[tuple[str, str]]


class Reader:
    """Reads from the moment it is made; ends with the pod, after `finish`, or when the funnel is over."""

    def __init__(self, cluster: Cluster, pod: Json, asked: LogsAsked, lines: Lines) -> None:
        """tail and since_s of `asked` leave out what the pod has written before now."""
        self.name = str(pod["metadata"]["name"])
        self._cluster = cluster
        self._lines = lines
        self._container = log_request.container_of(pod, asked.container)
        self._restarts = log_request.restarts(pod, self._container)
        self._tail, self._since_s = asked.tail, asked.since_s
        self._began = time.monotonic()
        self._position = Position()
        self._was_cut = False
        self._failing: float | None = None
        """Since when."""
        self._stream: Stream | None = None
        self._finishing = False
        self._lock = threading.Lock()
        """Of the stream, and whether there is to be another."""
        self._hurry = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"log of {self.name}", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def finish(self) -> None:
        """Read what is there, and no further. Any thread."""
        with self._lock:
            self._finishing = True
            if self._stream is not None:
                self._stream.end()
        self._hurry.set()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while not self._finishing:
                if not self._goes_on(follow=True):
                    return
                self._hurry.wait(_PAUSE_S)
            for _ in range(_LAST_TRIES):
                if self._lines.over or not self._goes_on(follow=False):
                    return
                self._lines.pause(_PAUSE_S)
        except BaseException as error:  # raised where the lines are taken
            self._lines.fail(error)
        finally:
            self._lines.wake()

    def _goes_on(self, follow: bool) -> bool:
        """Read until the log ends or the connection does; whether reading again may give more."""
        try:
            if self._was_cut and not self._catch_up():
                return False
            self._begin()
            self._read({"follow": "true"} if follow else {})
            return follow
        except TargetUnreachable as error:
            self._was_cut = True
            self._bear(error)
        except TargetRefused as error:
            if error.status == 404:
                return False
            if log_request.is_not_yet(error):
                self._tail = None  # all that it will write is new
                return follow
            if error.status in _HOPELESS:
                raise
            self._bear(error)
        return True

    def _bear(self, error: TargetError) -> None:
        now = time.monotonic()
        self._failing = self._failing or now
        if now - self._failing > PATIENCE_S:
            raise error

    def _begin(self) -> None:
        """What there is so far, as much of it as was asked for. By itself, so that all that comes after is read from a
        known place; of a log that nobody wants the tail of, that place is wanted all the same."""
        if self._tail is None or self._position.since:
            return
        self._read(log_request.last(max(1, self._tail), self._since_s), shown=self._tail > 0)
        self._tail = None

    def _catch_up(self) -> bool:
        """Read the end of the container's log whose stream was cut, where there is another container since. Whether
        the pod is still there."""
        pod = self._cluster.get("Pod", self.name)
        if pod is None:
            return False
        restarts = log_request.restarts(pod, self._container)
        if restarts > self._restarts and self._position.since:
            try:
                self._read({"previous": "true"})
            except TargetRefused as error:
                if error.status != 400:  # 400: it is not kept
                    raise
        self._restarts, self._was_cut = restarts, False
        return True

    def _read(self, query: dict[str, str], shown: bool = True) -> None:
        query |= {"container": self._container, "timestamps": "true"}
        if since := self._position.since:
            query["sinceTime"] = since
        elif self._since_s is not None:
            query |= log_request.last(None, self._since_s + time.monotonic() - self._began)
        self._position.resume()
        with self._cluster.log(self.name, query) as stream:
            self._failing = None
            try:
                if not self._hold(stream, "follow" in query):
                    return
                for line in stream:
                    text = self._position.take(line)
                    if text is not None and shown and not self._lines.put((self.name, text)):
                        return
            finally:
                self._release()

    def _hold(self, stream: Stream, follow: bool) -> bool:
        """Have `finish` end it; False where that has been called before."""
        with self._lock:
            self._stream = stream
            return not (follow and self._finishing)

    def _release(self) -> None:
        with self._lock:
            self._stream = None
