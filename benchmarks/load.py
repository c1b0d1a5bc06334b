"""A closed-loop HTTP client that costs little CPU: `python -m benchmarks.load`, one line of JSON in, one out.

One epoll loop over N connections; each sends its next request as soon as its answer is complete, so N requests are in
flight. Requests are bytes made beforehand, cycled through in order; answers are checked for their status and not
parsed. Every answer's latency is kept: no sampling, no correction. A process of its own, so that its CPU is known.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

_RECEIVE = 1 << 16
_GIVE_UP_S = 60.0


@dataclass(frozen=True, slots=True)
class Load:
    """What came back."""

    seconds: float
    """The window, from the first request until no more were sent; answers after it are not in `answered`."""
    answered: int
    """Answers within the window."""
    latencies_ms: list[float]
    """Of every answer, those after the window included, in the order of `indexes`."""
    indexes: list[int]
    """Which request was answered."""
    errors: list[str]
    """Status lines other than 200, and connections that broke."""
    client_cpu_s: float
    bytes_received: int
    lasted_s: float
    """From the first request until the last answer, which is what all the answers took."""


class Connection:
    """One keep-alive connection and the request that it waits for."""

    __slots__ = ("expected", "index", "received", "sent_at", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def send(self, index: int, request: bytes) -> None:
        self.index, self.expected, self.received = index, 0, bytearray()
        self.sent_at = time.perf_counter()
        self.socket.sendall(request)

    def receive(self) -> bool:
        """Whether the answer is complete. Raises ConnectionError."""
        chunk = self.socket.recv(_RECEIVE)
        if not chunk:
            raise ConnectionError("connection closed by the server")
        self.received += chunk
        if not self.expected:
            end = self.received.find(b"\r\n\r\n")
            if end < 0:
                return False
            head = bytes(self.received[:end]).lower()
            start = head.find(b"\r\ncontent-length:")
            if start < 0:
                raise ConnectionError("the answer has no content-length")
            self.expected = end + 4 + int(head[start + 17 :].split(b"\r\n", 1)[0])
        return len(self.received) >= self.expected


def run(port: int, requests: list[bytes], connections: int, seconds: float, first: int = 0) -> Load:
    """Keep `connections` requests in flight for so long, then wait for what is under way.

    first: index of the first request; a next run that goes on where this one ended repeats nothing early.
    """
    poll = select.epoll()
    open_ = {c.socket.fileno(): c for c in (Connection(port) for _ in range(connections))}
    for fileno in open_:
        poll.register(fileno, select.EPOLLIN)
    latencies: list[float] = []
    indexes: list[int] = []
    errors: list[str] = []
    received = answered = 0
    following = first
    cpu, started = time.process_time(), time.perf_counter()
    until = started + seconds

    def send(connection: Connection) -> None:
        nonlocal following
        index = following % len(requests)
        following += 1
        connection.send(index, requests[index])

    for connection in open_.values():
        send(connection)
    while open_:
        events = poll.poll(_GIVE_UP_S)
        if not events:
            errors += [f"no answer within {_GIVE_UP_S:.0f} s"] * len(open_)
            break
        for fileno, _ in events:
            connection = open_[fileno]
            try:
                if not connection.receive():
                    continue
                now = time.perf_counter()
                if connection.received.startswith(b"HTTP/1.1 200 "):
                    latencies.append(1000 * (now - connection.sent_at))
                    indexes.append(connection.index)
                    answered += now <= until
                else:
                    errors.append(connection.received.split(b"\r\n", 1)[0].decode(errors="replace"))
                received += len(connection.received)
                if now < until:
                    send(connection)
                    continue
            except OSError as error:
                errors.append(str(error))
            poll.unregister(fileno)
            del open_[fileno]
            connection.socket.close()
    poll.close()
    lasted = time.perf_counter() - started
    return Load(seconds, answered, latencies, indexes, errors, time.process_time() - cpu, received, lasted)


def main() -> None:
    job: dict[str, Any] = json.loads(sys.stdin.readline())
    job["requests"] = [request.encode("latin-1") for request in job["requests"]]
    print(json.dumps(asdict(run(**job))), flush=True)


if __name__ == "__main__":
    main()
