"""What a backend is: something that runs forward passes. Knows no task (it is handed the task's `reduce`) and no queue.

`forward` is called from one thread per stream; several streams may call it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from modelserve.tasks.base import States
from modelserve.types import Encoding, Output

Layout = Literal["packed", "padded", "equal", "single"]
"""How texts share a forward pass. packed: end to end, nothing is padded. padded: filled up to the longest.
equal: only texts of one length. single: one text a pass. Found out at load (backends/huggingface.py)."""

Reduce = Callable[[States, Sequence[Encoding]], list[Output]]


class OutOfMemory(Exception):
    """The device had no memory for this batch; a smaller one may fit. Caught by the batcher, never seen by users."""


class DeviceLost(Exception):
    """The device will not compute again in this process (a CUDA error that sticks). Liveness turns false."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What the batch policy must know of a backend."""

    layout: Layout
    max_batch_tokens: int
    """Token budget of one pass: real tokens when packed, padded ones when padded."""
    streams: int
    """Threads that may call `forward` at once."""


class Backend(Protocol):
    """A loaded model that can run."""

    limits: Limits

    def forward(self, encodings: Sequence[Encoding], reduce: Reduce, *, alone: bool = True) -> list[Output]:
        """One pass; outputs in the order of `encodings`. `alone`: no other stream computes now, take every core.

        Raises OutOfMemory, DeviceLost, or whatever the network raises.
        """

    def close(self) -> None:
        """Free the weights."""

    def describe(self) -> dict[str, Any]:
        """device, dtype, layout and why, for /info and the log."""
