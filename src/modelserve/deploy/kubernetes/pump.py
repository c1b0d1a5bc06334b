"""Carries bytes between a connection on this machine and one to a pod, both ways, until either has ended.

At most one piece waits in each direction: who reads slowly is sent to slowly. One thread. Knows no cluster.
"""

from __future__ import annotations

import select
import socket
import time

from modelserve.deploy.kubernetes.pod_socket import Cut, PodSocket

_PIECE = 2**16
_QUIET_S = 30.0
"""Load balancers forget a connection that is silent for a minute."""
_FAREWELL_S = 5.0
"""For the other side to see that all has been said, before the connection is closed."""
_KEEPALIVE = {"TCP_KEEPIDLE": 5, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
_FAILED = select.POLLHUP | select.POLLERR | select.POLLNVAL


class Pump:
    """Between the caller, who has connected here, and the pod."""

    def __init__(self, caller: socket.socket, pod: PodSocket, over: socket.socket) -> None:
        """over: readable when it is time to stop."""
        caller.setblocking(False)
        caller.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._caller, self._pod, self._over = caller, pod, over
        self._answer = memoryview(b"")
        """What the caller has not taken yet."""
        self._speaking = True
        """The caller may say more."""
        self._gone = False
        """The caller takes no more, and has nothing more to say."""
        self._ended = False
        """The pod has said all."""

    def run(self) -> bool:
        """Whether it came to an end, and was not stopped. Raises Cut where the way to the pod has broken."""
        while not self._gone:
            moved = self._receive()
            self._pass_on()
            if self._ended and not self._answer:
                return self._let_caller_end()
            ready = self._ready(0.0 if moved else _QUIET_S)
            if self._over.fileno() in ready:
                return False
            if not ready and not moved:
                self._pod.ping()
            self._pod.flush()
            state = ready.get(self._caller.fileno(), 0)
            if state & select.POLLIN:
                self._listen()
            elif state & _FAILED:
                self._gone = True
        return self._leave_pod()

    def _receive(self) -> bool:
        """Whether there was something."""
        if self._answer or self._ended:
            return False
        data = self._pod.receive()
        if data is None:
            return False
        self._ended = not data
        self._answer = memoryview(data)
        return True

    def _pass_on(self) -> None:
        while self._answer:
            try:
                self._answer = self._answer[self._caller.send(self._answer) :]
            except BlockingIOError:
                return
            except OSError:
                self._gone = True
                return

    def _listen(self) -> None:
        try:
            said = self._caller.recv(_PIECE)
        except BlockingIOError:
            return
        except OSError:
            self._gone = True
            return
        if said:
            self._pod.send(said)
            return
        self._speaking = False
        # It may still want the answer, or be gone: the kernel's probes tell, after a minute. The pod cannot be told
        # that one side of the connection has ended.
        self._caller.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in _KEEPALIVE.items():
            if hasattr(socket, name):
                self._caller.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)

    def _ready(self, timeout_s: float) -> dict[int, int]:
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        if events := self._pod.events(receiving=not self._answer and not self._ended):
            poll.register(self._pod, events)  # asked for nothing, it would still tell that it has failed, on and on
        hears = self._speaking and not self._pod.unsent
        poll.register(self._caller, (select.POLLIN if hears else 0) | (select.POLLOUT if self._answer else 0))
        return dict(poll.poll(timeout_s * 1000))

    def _let_caller_end(self) -> bool:
        """A connection that is closed while something unread comes in is reset, and the caller loses the answer."""
        if self._pod.error:
            return True
        self._pod.farewell()
        try:
            self._caller.shutdown(socket.SHUT_WR)
            until = time.monotonic() + _FAREWELL_S
            while (left := until - time.monotonic()) > 0:
                if self._wait(self._caller, select.POLLIN, left):
                    return False
                if not self._caller.recv(_PIECE):
                    break
        except OSError:
            return True  # it is gone, or is silent, which is the same now
        return True

    def _leave_pod(self) -> bool:
        """As above, the other way round."""
        self._pod.farewell()
        until = time.monotonic() + _FAREWELL_S
        try:
            while (left := until - time.monotonic()) > 0:
                if self._wait(self._pod, self._pod.events(receiving=True), left):
                    return False
                self._pod.flush()
                while (data := self._pod.receive()) is not None:
                    if not data:
                        return True
        except Cut:
            return True  # nobody is there who would miss anything
        return True

    def _wait(self, one: socket.socket | PodSocket, events: int, timeout_s: float) -> bool:
        """Until something happens to it; whether it is time to stop."""
        poll = select.poll()
        poll.register(self._over, select.POLLIN)
        poll.register(one, events)
        return self._over.fileno() in dict(poll.poll(timeout_s * 1000))
