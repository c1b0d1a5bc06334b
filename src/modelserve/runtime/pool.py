"""Named threads that work off one queue of calls. Knows nothing of what they call.

Unlike concurrent.futures it makes no future per call, which costs more than a short text takes to tokenise: whoever
waits for the outcome waits for the request's Reply.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import ParamSpec

log = logging.getLogger(__name__)
P = ParamSpec("P")


class Pool:
    """Threads that end with `close` (or with the process)."""

    def __init__(self, name: str, threads: int) -> None:
        self._calls: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"{name}-{n}", daemon=True) for n in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, function: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Call it on one of the threads. It answers for its own errors; one that escapes is logged."""
        self._calls.put(lambda: function(*args, **kwargs))

    def close(self) -> None:
        """Let the threads end after what is queued."""
        for _ in self._threads:
            self._calls.put(None)

    def _work(self) -> None:
        while call := self._calls.get():
            try:
                call()
            except BaseException:  # a panic of the Rust tokenizer too: this thread serves the next request
                log.exception("a call on %s failed", threading.current_thread().name)
