"""A port of this machine that leads to a pod, for whoever cannot reach the cluster's network: a laptop.

One thread accepts, and each connection has one of its own; they are daemons. Knows no run and no protocol.
"""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Callable
from functools import partial

from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.kubernetes.pod_socket import Cut, PodSocket
from modelserve.deploy.kubernetes.pump import Pump
from modelserve.errors import DeployError, TargetError, TargetUnreachable

_BACKLOG = 128
_JOIN_S = 2.0
"""For the threads, which have been told to end; one that waits for a cluster that says nothing ends later."""
_PAUSE_S = 0.1
"""Where this process has no room for another connection."""


class Forward:
    """Listens from the start, and asks the cluster nothing until somebody connects. A context manager."""

    def __init__(self, cluster: Cluster, pick: Callable[[], tuple[str, int]]) -> None:
        """pick: the name of a pod that answers now and its port, asked for each connection, by its thread. Raises
        TargetError where there is none."""
        self.last_error: DeployError | None = None
        """Why a connection could not be made, or broke; told before that connection is reset. The newest."""
        self._cluster = cluster
        self._pick = pick
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._closed = False
        # The one end is readable, for all threads, as soon as the other is closed.
        self._over, self._bell = socket.socketpair()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=_BACKLOG)
        self._listener.setblocking(False)
        self._port: int = self._listener.getsockname()[1]
        self._begin(self._accept)

    def __enter__(self) -> Forward:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def check(self) -> None:
        """Whether the cluster would lead to a pod now. Raises TargetRefused, which names the right that is missing, or
        another TargetError. Whether something listens in the pod is not told by it."""
        pod, port = self._pick()
        with PodSocket(self._cluster, pod, port) as remote:
            remote.farewell()

    def close(self) -> None:
        """Connections that are there are reset."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            threads = list(self._threads)
        self._bell.close()
        until = time.monotonic() + _JOIN_S
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))

    def _begin(self, work: Callable[[], None]) -> bool:
        """On a thread of its own, unless all is over."""

        def run() -> None:
            try:
                work()
            finally:
                with self._lock:
                    self._threads.discard(thread)
                    if self._closed and not self._threads:
                        self._over.close()

        thread = threading.Thread(target=run, name="port-forward", daemon=True)
        with self._lock:
            if self._closed:
                return False
            self._threads.add(thread)
            thread.start()
        return True

    def _accept(self) -> None:
        with self._listener:
            while not self._is_over(self._listener):
                try:
                    caller, _ = self._listener.accept()
                except (ConnectionError, BlockingIOError):
                    continue  # whoever it was has gone
                except OSError as error:
                    self.last_error = TargetError(f"a connection to {self.url} could not be taken: {error}")
                    self._is_over(None, _PAUSE_S)
                    continue
                if not self._begin(partial(self._carry, caller)):
                    caller.close()

    def _is_over(self, one: socket.socket | None, timeout_s: float | None = None) -> bool:
        """Known when there is something to read from it, or after so long."""
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        if one is not None:
            poll.register(one, select.POLLIN)
        return self._over.fileno() in dict(poll.poll(None if timeout_s is None else timeout_s * 1000))

    def _carry(self, caller: socket.socket) -> None:
        with caller:
            try:
                pod, port = self._pick()
                with PodSocket(self._cluster, pod, port) as remote:
                    ended = self._pump(caller, remote, f"the port {port} of the pod {pod}")
            except DeployError as error:
                self.last_error = error
                ended = False
            if not ended:  # a caller must not take it for an end
                caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _pump(self, caller: socket.socket, remote: PodSocket, what: str) -> bool:
        """Whether it ended well. Raises TargetError."""
        try:
            ended = Pump(caller, remote, self._over).run()
        except Cut as cut:
            place = self._cluster.place.title
            raise TargetUnreachable(f"the connection through the cluster {place} to {what} broke: {cut}") from cut
        if remote.error:
            raise TargetError(f"{what} cannot be reached: {' '.join(remote.error.split())}")
        return ended
