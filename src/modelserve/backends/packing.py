"""Attention over texts that lie end to end in one row: each text sees itself alone, and nothing is padded.

Registered with transformers under `modelserve`; outside `packed(...)` it is plain SDPA, so the same module runs both.
Linear layers see one [T, H] block. On a CPU attention runs once per group of neighbours of equal length, a dense block;
on a GPU in half precision it is one variable-length kernel. Knows no architecture: whether a model may be run so is
found by comparison at load.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

NAME = "modelserve"

Group = tuple[int, int, int]
"""(first row, number of texts, length): neighbours of equal length."""


class _Packing(threading.local):
    """What the pass of this thread is made of; None outside a packed pass."""

    groups: Sequence[Group] | None = None
    bounds: torch.Tensor | None = None
    longest: int = 0


_packing = _Packing()


def groups_of(lengths: Sequence[int]) -> list[Group]:
    """The runs of equal neighbours in `lengths`, with the row at which each begins."""
    groups: list[Group] = []
    row = first = 0
    for index, length in enumerate(lengths):
        if index and length != lengths[index - 1]:
            groups.append((first, (row - first) // lengths[index - 1], lengths[index - 1]))
            first = row
        row += length
    if lengths:
        groups.append((first, (row - first) // lengths[-1], lengths[-1]))
    return groups


@contextmanager
def packed(groups: Sequence[Group], *, bounds: torch.Tensor | None = None) -> Iterator[None]:
    """The forward passes of this thread inside the block are packed.

    bounds: int32 [texts + 1] on the device, the row at which each text begins, for the variable-length kernel.
    """
    _packing.groups, _packing.bounds = groups, bounds
    _packing.longest = max((length for _, _, length in groups), default=0)
    try:
        yield
    finally:
        _packing.groups = _packing.bounds = None


def _attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """query, key, value: [1, heads, T, d] when packed. Returns [1, T, heads, d], as transformers expects it."""
    groups = _packing.groups
    if groups is None:
        output: tuple[torch.Tensor, None] = sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output
    scaling: float | None = kwargs.get("scaling")
    window: int | None = kwargs.get("sliding_window")
    rows = [x[0].transpose(0, 1) for x in (query, key, value)]  # [T, heads, d]
    if _packing.bounds is not None:
        return _variable_length(rows, _packing.bounds, scaling, window).unsqueeze(0), None
    if len(groups) == 1:
        return _block(rows, groups[0], scaling, window).unsqueeze(0), None
    blocks = [
        _block([x[first : first + n * length] for x in rows], (0, n, length), scaling, window)
        for first, n, length in groups
    ]
    return torch.cat(blocks).unsqueeze(0), None


def _block(rows: list[torch.Tensor], group: Group, scaling: float | None, window: int | None) -> torch.Tensor:
    _, n, length = group
    query, key, value = (x.view(n, length, *x.shape[1:]).transpose(1, 2) for x in rows)
    band = None
    if window is not None and length > window:
        # transformers hands over the exclusive bound: positions closer than `window` see each other.
        position = torch.arange(length, device=query.device)
        band = (position[:, None] - position[None, :]).abs() < window
    out = scaled_dot_product_attention(query, key, value, attn_mask=band, scale=scaling)
    return out.transpose(1, 2).flatten(0, 1)


def _variable_length(
    rows: list[torch.Tensor], bounds: torch.Tensor, scaling: float | None, window: int | None
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    query, key, value = rows
    side = -1 if window is None else window - 1
    longest = _packing.longest
    out = varlen_attn(query, key, value, bounds, bounds, longest, longest, scale=scaling, window_size=(side, side))
    assert isinstance(out, torch.Tensor)  # a pair only where the log-sum-exp is asked for
    return out


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _packing.groups is not None else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, _attention)
AttentionMaskInterface.register(NAME, _mask)
