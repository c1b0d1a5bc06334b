"""A closed-loop client of streams that costs little CPU: `python -m benchmarks.generate.stream`.

A line of JSON in, one out. One epoll loop. Each caller sends its next prompt as soon as its text has ended; what comes
is looked at for the beginnings of events only, and each is stamped with the time at which it was received. A process of
its own, so that its CPU is known.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from typing import Any

_RECEIVE = 1 << 16
_GIVE_UP_S = 120.0
_EVENT = b"data: {"
_END = b"data: [DONE]"
_USAGE = b'"completion_tokens":'


@dataclass(slots=True)
class Text:
    """One text as its reader saw it; seconds since the beginning of the run."""

    sent: float
    events: list[float] = field(default_factory=list)
    ended: float = 0.0
    tokens: int = 0
    """As the last event's usage says."""


class Caller:
    """One connection and the text that it reads."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.text = Text(0.0)

    def send(self, prompt: list[int], tokens: int, now: float) -> None:
        asked = {
            "model": "m",
            "prompt": prompt,
            "max_tokens": tokens,
            "temperature": 0,
            "ignore_eos": True,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = json.dumps(asked).encode()
        head = (
            f"POST /v1/completions HTTP/1.1\r\nHost: m\r\nContent-Type: application/json\r\nContent-Length: {len(body)}"
        )
        self.text, self._rest = Text(now), b""
        self.socket.sendall(head.encode() + b"\r\n\r\n" + body)

    def receive(self, now: float) -> bool:
        """Whether the text has ended. Raises ConnectionError for anything but a whole text."""
        chunk = self.socket.recv(_RECEIVE)
        if not chunk:
            raise ConnectionError("the server closed the connection")
        seen = self._rest + chunk
        if not self.text.events and b"HTTP/1.1 " in seen and b"HTTP/1.1 200 " not in seen:
            raise ConnectionError(seen.decode(errors="replace")[:500])
        complete, _, self._rest = seen.rpartition(b"\n\n")
        self.text.events += [now] * complete.count(_EVENT)
        if (usage := complete.rfind(_USAGE)) >= 0:
            number = usage + len(_USAGE)
            self.text.tokens = int(complete[number : number + 12].split(b",")[0].split(b"}")[0])
        if _END not in complete:
            return False
        # The last event is the usage, which is no token.
        self.text.events.pop()
        self.text.ended = now
        return True


def run(port: int, prompts: list[list[int]], tokens: int, callers: int, late: list[int] | None = None) -> list[Text]:
    """The texts of all prompts, so many callers at a time.

    late: one more prompt, sent when half of the first callers' tokens have come; its text is the last of the answer.
    """
    poll = select.epoll()
    started = time.perf_counter()
    waiting, texts = list(reversed(prompts)), []
    open_: dict[int, Caller] = {}

    def begin(prompt: list[int], length: int) -> Caller:
        caller = Caller(port)
        open_[caller.socket.fileno()] = caller
        poll.register(caller.socket.fileno(), select.EPOLLIN)
        caller.send(prompt, length, time.perf_counter() - started)
        return caller

    for _ in range(min(callers, len(waiting))):
        begin(waiting.pop(), tokens)
    joined: Caller | None = None
    while open_:
        events = poll.poll(_GIVE_UP_S)
        if not events:
            raise ConnectionError(f"no token within {_GIVE_UP_S:.0f} s")
        for fileno, _ in events:
            caller = open_[fileno]
            now = time.perf_counter() - started
            if not caller.receive(now):
                continue
            texts.append(caller.text)
            if waiting:
                caller.send(waiting.pop(), tokens, now)
                continue
            poll.unregister(fileno)
            del open_[fileno]
            caller.socket.close()
        if late is not None and joined is None and min(len(c.text.events) for c in open_.values()) > tokens // 2:
            joined = begin(late, 4)
    poll.close()
    if joined is not None:
        texts.remove(joined.text)
        texts.append(joined.text)
    return texts


def main() -> None:
    for line in sys.stdin:
        job: dict[str, Any] = json.loads(line)
        cpu, began = time.process_time(), time.perf_counter()
        texts = run(**job)
        said = {"texts": [asdict(text) for text in texts], "seconds": time.perf_counter() - began}
        print(json.dumps({**said, "client_cpu_s": time.process_time() - cpu}), flush=True)


if __name__ == "__main__":
    main()
