"""What the engine of our own (runtime/iteration.py) wants of a model: pieces of many sequences in, logits out.

backends/decoder.py runs transformers' models so, backends/openvino.py converted ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from modelserve.backends.decoder import Piece
from modelserve.backends.slots import Slot


class Places(Protocol):
    """Where sequences are in the KV memory."""

    def take(self) -> Slot:
        """A place for a new sequence."""

    def free(self, slot: Slot) -> None:
        """It is not needed any more."""

    def clear(self) -> None:
        """Forget everything, free the memory; whoever held a place takes another one."""


class Steps(Protocol):
    """A decoder-only model and its KV memory; used by the load thread, then by the engine's."""

    device: torch.device
    """Of the logits."""
    vocabulary: int
    """Columns of the logits."""

    @property
    def bytes_per_token(self) -> int:
        """KV memory of one token."""

    @property
    def slots(self) -> Places:
        """There from `allot` on."""

    def allot(self, tokens: int | None, *, context: int, sequences: int) -> int:
        """KV memory for at most so many tokens together, every sequence counted as the longest; a share of what is free
        when not given. Returns how many. Raises LoadError where there is no room for one."""

    def step(self, pieces: Sequence[Piece]) -> torch.Tensor:
        """Logits [wanted tokens, vocabulary], in the order of `pieces`."""

    def close(self) -> None:
        """Free the weights and the KV memory."""

    def describe(self) -> dict[str, Any]:
        """device, dtype and what else is worth telling, for /info and the log."""
