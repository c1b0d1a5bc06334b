"""Named threads that work off one queue of calls. Knows nothing of what they call.

Unlike concurrent.futures it makes no future per call, which costs more than a short text takes to tokenise: whoever
waits for the outcome waits for the request's Reply.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from typing import ParamSpec

log = logging.getLogger(__name__)
P = ParamSpec("P")


class Pool:
    """Threads that end with `close` (or with the process)."""

    def __init__(self, name: str, threads: int) -> None:
        self._calls: deque[Callable[[], None]] = deque()
        self._wakes: SimpleQueue[bool] = SimpleQueue()
        """For one thread each: True to work, False to end."""
        self._waking = False
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """On the event loop: call it on one of the threads. It answers for its own errors, one that escapes is logged.

        What one turn of the loop submits wakes one thread: waking costs more than tokenising a short text.
        """
        self._calls.append(lambda: function(*args, **kwargs))
        if not self._waking:
            self._waking = True
            asyncio.get_running_loop().call_soon(self._wake)

    def close(self) -> None:
        """Let the threads end after what is queued."""
        for _ in self._threads:
            self._wakes.put(False)

    def _wake(self) -> None:
        self._waking = False
        self._wakes.put(True)

    def _work(self) -> None:
        more = True
        while more:
            more = self._wakes.get()
            while call := self._next():
                try:
                    call()
                except BaseException:  # a panic of the Rust tokenizer too: this thread serves the next request
                    log.exception("a call on %s failed", threading.current_thread().name)

    def _next(self) -> Callable[[], None] | None:
        try:
            return self._calls.popleft()
        except IndexError:  # nothing left, or another thread was quicker
            return None
