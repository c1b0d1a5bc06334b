"""KV memory: what attention remembers of the sequences that run, one slot each, all of one size.

A slot has room for `length` tokens in every layer. On a CPU, whose memory is given page by page as it is touched, all
of it is set aside at once where the budget has room for the longest text in every slot. Else both the number of slots
and their size grow as needed, doubling, and never hold more than a budget of tokens together. Slots in use are always
the lowest: when one in between is freed the last one moves there, so that one call of attention sees its neighbours as
a block. Knows no model and no schedule; used by the engine's thread only.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch

_LEAST = 256
"""Tokens that a slot has room for at first: most chats, and growing copies what is there."""
_PIECE = 64
"""Memory is cleared in pieces of so many tokens, so that a text that grows by one does not clear at every step."""


@dataclass(frozen=True, slots=True)
class LayerShape:
    """What one layer keeps of a token."""

    heads: int
    key_width: int
    value_width: int


@dataclass(slots=True, eq=False)
class Slot:
    """The place of one sequence. Its number changes when another one is freed."""

    number: int
    cleared: int = 0
    """Tokens from the first on that hold numbers."""


class Slots:
    """The memory of all layers. `keys(layer)` and `values(layer)` are [slots, heads, length, width]: what one head of
    attention reads lies together, a fifth to a third faster than with a token's heads together."""

    def __init__(
        self,
        shapes: Sequence[LayerShape],
        dtype: torch.dtype,
        device: torch.device,
        *,
        tokens: int,
        context: int,
        most: int | None = None,
    ) -> None:
        """tokens: most that all slots together have room for. context: most that one of them ever needs. most: slots
        that are ever in use at once, where that is known."""
        self._shapes = shapes
        self._dtype = dtype
        self._device = device
        self.tokens = tokens
        self._context = min(context, tokens)
        self._at_once = most if most and device.type == "cpu" and most * self._context <= tokens else None
        self.clear()

    def clear(self) -> None:
        """Forget everything, free the memory; whoever held a slot takes another one."""
        self._taken: list[Slot] = []
        self.count = self.length = 0
        self._keys = [self._empty(0, shape.heads, 0, shape.key_width) for shape in self._shapes]
        self._values = [self._empty(0, shape.heads, 0, shape.value_width) for shape in self._shapes]

    def take(self) -> Slot:
        slot = Slot(len(self._taken))
        self._taken.append(slot)
        return slot

    def free(self, slot: Slot) -> None:
        last = self._taken.pop()
        if last is slot:
            return
        if last.cleared:  # else it may have no memory yet: the step that it was taken for has failed
            for memory in (*self._keys, *self._values):
                memory[slot.number, :, : last.cleared] = memory[last.number, :, : last.cleared]
        last.number = slot.number
        self._taken[last.number] = last

    def taken(self, number: int) -> Slot:
        return self._taken[number]

    def fit(self, longest: int) -> None:
        """Room for `longest` tokens in each slot in use, before a step writes to them.

        used * longest is within the budget: the schedule sees to that.
        """
        used = len(self._taken)
        if used * longest > self.tokens:
            raise ValueError(f"{used} slots of {longest} tokens are over the budget of {self.tokens}")
        count, length = self.count, self.length
        if self._at_once is not None and used <= self._at_once:
            count, length = self._at_once, self._context
        while count < used:
            count = max(1, count * 2)
        if longest > length:
            length = _LEAST
            while length < longest:
                length *= 2
            length = min(length, self._context)
        if count * length > self.tokens:
            count = used
            length = min(length, self.tokens // count)
        if (count, length) != (self.count, self.length):
            self._resize(count, length)

    def clean(self, slot: Slot, length: int) -> None:
        """The first `length` tokens of a slot hold numbers: what is masked must not be NaN either."""
        if slot.cleared >= length:
            return
        end = min(self.length, -(-length // _PIECE) * _PIECE)
        for memory in (*self._keys, *self._values):
            memory[slot.number, :, slot.cleared : end].zero_()
        slot.cleared = end

    def rows(self, index: torch.Tensor, heads: int) -> torch.Tensor:
        """Where each head of each token lies in a layer with so many: int64 [N * heads]. index: int64 [N], slot *
        length + position."""
        before = index // self.length * (self.length * (heads - 1)) + index
        return (before[:, None] + torch.arange(heads, device=self._device) * self.length).flatten()

    def write(self, layer: int, rows: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> None:
        """key, value: [N, heads, width] of the tokens whose `rows` those are."""
        for memory, new in ((self._keys[layer], key), (self._values[layer], value)):
            memory.view(-1, memory.shape[-1]).index_copy_(0, rows, new.reshape(-1, new.shape[-1]))

    def keys(self, layer: int) -> torch.Tensor:
        return self._keys[layer]

    def values(self, layer: int) -> torch.Tensor:
        return self._values[layer]

    @property
    def bytes_per_token(self) -> int:
        return bytes_per_token(self._shapes, self._dtype)

    def _resize(self, count: int, length: int) -> None:
        for memories in (self._keys, self._values):
            for layer, old in enumerate(memories):
                new = self._empty(count, old.shape[1], length, old.shape[3])
                for slot in self._taken:
                    if n := min(slot.cleared, length):
                        new[slot.number, :, :n] = old[slot.number, :, :n]
                memories[layer] = new  # one layer after the other: never twice the whole
        for slot in self._taken:
            slot.cleared = min(slot.cleared, length)
        self.count, self.length = count, length

    def _empty(self, *shape: int) -> torch.Tensor:
        if self._device.type == "cpu" and all(shape):
            return untouched(shape, self._dtype)
        return torch.empty(shape, dtype=self._dtype, device=self._device)


def untouched(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """A tensor on the CPU that takes memory only where it is written to, page by page.

    The allocator's may lie in large pages (memory.py), and each is cleared when it is touched: a text of 1,800 tokens
    that joined made fifteen others wait for 900 ms. Raises MemoryError.
    """
    size = torch.Size(shape).numel() * dtype.itemsize
    try:
        room = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    except OSError as error:
        raise MemoryError(str(error)) from error
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages does not know the word
            room.madvise(mmap.MADV_NOHUGEPAGE)
    return torch.frombuffer(room, dtype=dtype).view(*shape)


def bytes_per_token(shapes: Sequence[LayerShape], dtype: torch.dtype) -> int:
    """What one token takes in all layers."""
    return sum(shape.heads * (shape.key_width + shape.value_width) for shape in shapes) * dtype.itemsize
