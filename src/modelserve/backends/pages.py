"""Whose are the blocks of a paged KV memory: each sequence has as many as its tokens fill, wherever they are.

The lowest free blocks are given first, so that what was never needed is never touched. Knows no model and no tensors;
used by the engine's thread only.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field

from modelserve.backends.slots import Slot

BLOCK = 32
"""Tokens of a block: what OpenVINO's attention on a CPU has."""


@dataclass(slots=True, eq=False)
class Pages(Slot):
    """The place of one sequence."""

    blocks: list[int] = field(default_factory=list)
    """In the order of its tokens."""


class Book:
    """Who has which blocks. Fulfils steps.Places."""

    def __init__(self, blocks: int, cleared: Callable[[], None] = lambda: None) -> None:
        """cleared: told when nobody has any."""
        self.blocks = blocks
        self._cleared = cleared
        self._free = list(range(blocks))

    @property
    def free_blocks(self) -> int:
        return len(self._free)

    def take(self) -> Slot:
        return Pages(0)

    def free(self, slot: Slot) -> None:
        pages = pages_of(slot)
        for block in pages.blocks:
            heapq.heappush(self._free, block)
        pages.blocks = []

    def clear(self) -> None:
        self._free = list(range(self.blocks))
        self._cleared()

    def fit(self, slot: Slot, tokens: int) -> list[int]:
        """The sequence's blocks, of which there are enough for so many tokens now."""
        blocks = pages_of(slot).blocks
        while len(blocks) * BLOCK < tokens:
            if not self._free:
                raise ValueError(f"a sequence of {tokens} tokens is over the budget of {self.blocks} blocks")
            blocks.append(heapq.heappop(self._free))
        return blocks


def pages_of(slot: Slot) -> Pages:
    assert isinstance(slot, Pages), "a place of another memory"
    return slot
