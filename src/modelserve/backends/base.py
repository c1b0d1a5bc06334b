"""What a backend is: something that runs forward passes. Knows no task (it is handed the task's `reduce`) and no queue.

`forward` is called from one thread per stream; several streams may call it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from modelserve.tasks.base import States
from modelserve.types import Encoding, Output

WorkT = TypeVar("WorkT")
"""Encoding or Rows: what a backend computes on."""
StatesT_co = TypeVar("StatesT_co", covariant=True)
"""States or Estimate: what it hands to `reduce`."""

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
    """Token budget of one pass: real tokens when packed, padded ones when padded; rows for a model of features."""
    streams: int
    """Threads that may call `forward` at once."""
    max_batch_size: int | None = None
    """Most pieces of work in one pass; None for no limit but that of tokens."""
    bounded: bool = False
    """A pass ends by itself in time, as one that waits for somebody else does: long, it is no sign of a fault."""


class Backend(Protocol[WorkT, StatesT_co]):
    """A loaded model that can run."""

    limits: Limits

    def forward(
        self,
        work: Sequence[WorkT],
        reduce: Callable[[StatesT_co, Sequence[WorkT]], list[Output]],
        /,
        *,
        alone: bool = True,
    ) -> list[Output]:
        """One pass; outputs in the order of `work`. `alone`: no other stream computes now, take every core.

        Raises OutOfMemory, DeviceLost, InvalidRequest for what the model refuses, a ModelServeError with what all its
        callers are told, or whatever the network raises.
        """

    def close(self) -> None:
        """Free the weights."""

    def describe(self) -> dict[str, Any]:
        """device, dtype, layout and why, for /info and the log."""
