"""How many threads compute one operation: all of them for the large ones, one for what lies between.

Torch gives an operation over some 32,000 numbers to every thread, and to wake one takes longer than the numbers do
(60 us against 10). A step of a decoder has a thousand such operations and some hundred large ones. Per thread that
calls, but that a thread whose first operation falls inside another's step starts with that one's number; on a CPU only.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class _Crew(threading.local):
    size = 0
    """Threads that the large operations get; 0 where nothing was divided."""


_crew = _Crew()


@contextmanager
def small_ones_alone() -> Iterator[None]:
    """Operations inside run on the calling thread, but for those `all_of_it` encloses."""
    _crew.size = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(_crew.size)
        _crew.size = 0


class all_of_it:
    """The operations inside run on all threads. (No generator: it is entered a hundred times a step.)"""

    __slots__ = ()

    def __enter__(self) -> None:
        if _crew.size:
            torch.set_num_threads(_crew.size)

    def __exit__(self, *error: object) -> None:
        if _crew.size:
            torch.set_num_threads(1)
