"""Attention of a step in which the tokens of many sequences lie end to end, each with its past in a slot.

Registered with transformers under `modelserve-flat`. Sequences with one token share a call (their past is a block of
neighbouring slots, the heads of a group are queries of one key head); longer pieces get a call each. Which layers look
through a window comes from the mask that the model asked for. Knows no architecture: whether a model may be run so is
found by comparison at load (decoder.py). Runs in the thread that called the model.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from modelserve.backends.slots import LayerShape, Slots

NAME = "modelserve-flat"

_WASTE = 512
"""Tokens of padding from which a further call of attention is cheaper."""


class NotFlat(Exception):
    """This architecture cannot be run in flat steps, and why. It goes through `generate`."""


class Group(NamedTuple):
    """Sequences with one token each, in neighbouring slots."""

    first: int
    """Of their tokens in the step."""
    slot: int
    lengths: tuple[int, ...]
    """Of each, the new token included."""


class Chunk(NamedTuple):
    """A piece of one sequence."""

    first: int
    slot: int
    start: int
    """Tokens that it has in the slot already."""
    tokens: int


class Band(NamedTuple):
    """Stands for the mask that a model asked for: causal, and within so many tokens."""

    window: int | None


Special = tuple[float | None, torch.Tensor | None]
"""Softcap and sinks, None for most."""


@dataclass(slots=True)
class Step:
    """What the pass of this thread is made of."""

    memory: Slots
    index: torch.Tensor
    """int64 [N]: where each token goes, slot * length + position."""
    groups: Sequence[Group]
    chunks: Sequence[Chunk]
    masks: dict[tuple[int, int | None], tuple[int, torch.Tensor | None]] = field(default_factory=dict)
    """By number of group or (after them) chunk, and window: the first key that any query sees, and the mask."""
    rows: dict[int, torch.Tensor] = field(default_factory=dict)
    """By the heads of a layer, where their keys and values go."""
    layers: int = 0
    """Calls of attention so far."""


@dataclass(slots=True)
class Probe:
    """A pass that only asks how large keys and values are. By layer."""

    shapes: dict[int, LayerShape] = field(default_factory=dict)


class _Current(threading.local):
    step: Step | Probe | None = None


_current = _Current()


@contextmanager
def flat(step: Step | Probe) -> Iterator[None]:
    """The forward passes of this thread inside the block are flat."""
    _current.step = step
    try:
        yield
    finally:
        _current.step = None


def groups_of(slots: Sequence[tuple[int, int]]) -> list[Group]:
    """slots: (slot, length) of sequences with one token, in the order of their slots.

    Neighbours share a group until what the shorter ones are padded by outweighs a call.
    """
    groups: list[Group] = []
    lengths: list[int] = []
    first = 0
    for at, (slot, length) in enumerate(slots):
        longest = max([length, *lengths])
        if lengths and (slots[at - 1][0] != slot - 1 or longest * (len(lengths) + 1) - sum(lengths) - length > _WASTE):
            groups.append(Group(first, slots[first][0], tuple(lengths)))
            first, lengths = at, []
        lengths.append(length)
    if lengths:
        groups.append(Group(first, slots[first][0], tuple(lengths)))
    return groups


def attend(
    layer: int,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    window: int | None,
    scaling: float | None,
    softcap: float | None = None,
    sinks: torch.Tensor | None = None,
) -> torch.Tensor:
    """query, key, value: [N, heads, width] of this step's tokens. Returns [N, heads, width of values]."""
    step = _current.step
    if isinstance(step, Probe):
        step.shapes[layer] = LayerShape(key.shape[1], key.shape[2], value.shape[2])
        return value.repeat_interleave(query.shape[1] // value.shape[1], 1)
    if step is None:
        raise NotFlat("attention was called outside a step")
    step.layers += 1
    if (heads := key.shape[1]) not in step.rows:
        step.rows[heads] = step.memory.rows(step.index, heads)
    step.memory.write(layer, step.rows[heads], key, value)
    keys, values = step.memory.keys(layer), step.memory.values(layer)
    special = (softcap, sinks)
    parts = [
        _group(step, number, group, query, keys, values, window, scaling, special)
        for number, group in enumerate(step.groups)
    ]
    parts += [
        _chunk(step, number, chunk, query, keys, values, window, scaling, special)
        for number, chunk in enumerate(step.chunks, len(step.groups))
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _group(
    step: Step,
    number: int,
    group: Group,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    scaling: float | None,
    special: Special,
) -> torch.Tensor:
    n, longest = len(group.lengths), max(group.lengths)
    if (number, window) not in step.masks:
        step.masks[number, window] = _group_mask(group, window, query)
    begin, mask = step.masks[number, window]
    heads, kv, width = query.shape[1], keys.shape[1], query.shape[2]
    out = _attention(
        query[group.first : group.first + n].reshape(n, kv, heads // kv, width),
        keys[group.slot : group.slot + n, :, begin:longest],
        values[group.slot : group.slot + n, :, begin:longest],
        mask,
        scaling,
        special,
    )
    return out.reshape(n, heads, -1)


def _group_mask(group: Group, window: int | None, query: torch.Tensor) -> tuple[int, torch.Tensor | None]:
    shortest, longest = min(group.lengths), max(group.lengths)
    begin = 0 if window is None else max(0, shortest - window)
    if shortest == longest:
        return begin, None  # all see the same keys: [begin, longest)
    position = torch.arange(begin, longest, device=query.device)
    length = torch.tensor(group.lengths, device=query.device)[:, None]
    seen = position < length
    if window is not None:
        seen &= position >= length - window
    return begin, _additive(seen, query.dtype)[:, None, None]


def _chunk(
    step: Step,
    number: int,
    chunk: Chunk,
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    window: int | None,
    scaling: float | None,
    special: Special,
) -> torch.Tensor:
    end, heads, kv = chunk.start + chunk.tokens, query.shape[1], keys.shape[1]
    queries = query[chunk.first : chunk.first + chunk.tokens].transpose(0, 1)[None]
    if not chunk.start and (window is None or end <= window) and special == (None, None):
        out = scaled_dot_product_attention(
            queries,
            keys[chunk.slot : chunk.slot + 1, :, :end],
            values[chunk.slot : chunk.slot + 1, :, :end],
            is_causal=True,
            scale=scaling,
            enable_gqa=heads != kv,
        )
        return out[0].transpose(0, 1)
    if (number, window) not in step.masks:
        step.masks[number, window] = _chunk_mask(chunk, window, query)
    begin, mask = step.masks[number, window]
    # One group of heads after the other would be heads * tokens queries of a key head: the mask repeats per head.
    out = _attention(
        queries.reshape(1, kv, heads // kv, chunk.tokens, -1).flatten(2, 3),
        keys[chunk.slot : chunk.slot + 1, :, begin:end],
        values[chunk.slot : chunk.slot + 1, :, begin:end],
        None if mask is None else mask.repeat(heads // kv, 1)[None, None],
        scaling,
        special,
        tokens=chunk.tokens,
    )
    return out.reshape(heads, chunk.tokens, -1).transpose(0, 1)


def _chunk_mask(chunk: Chunk, window: int | None, query: torch.Tensor) -> tuple[int, torch.Tensor | None]:
    end = chunk.start + chunk.tokens
    begin = 0 if window is None else max(0, chunk.start + 1 - window)
    if chunk.tokens == 1:
        return begin, None
    row = torch.arange(chunk.start, end, device=query.device)[:, None]
    position = torch.arange(begin, end, device=query.device)
    seen = position <= row
    if window is not None:
        seen &= position > row - window
    return begin, _additive(seen, query.dtype)


def _additive(seen: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, float("-inf"))


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
    special: Special,
    *,
    tokens: int = 1,
) -> torch.Tensor:
    """query: [B, key heads, heads per key head * tokens, width]."""
    softcap, sinks = special
    if softcap is None and sinks is None:
        return scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling)
    weights = query @ key.transpose(2, 3) * (query.shape[-1] ** -0.5 if scaling is None else scaling)
    if softcap is not None:
        weights = torch.tanh(weights / softcap) * softcap
    if mask is not None:
        weights = weights + mask
    if sinks is None:
        return weights.softmax(-1, dtype=torch.float32).to(query.dtype) @ value
    sink = sinks.view(1, key.shape[1], -1, 1).repeat_interleave(tokens, 2)  # one more key, whose value is nothing
    weights = torch.cat([weights, sink.expand(*weights.shape[:3], 1).to(weights.dtype)], -1)
    return weights.softmax(-1, dtype=torch.float32)[..., :-1].to(query.dtype) @ value


def _interface(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: Any,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: torch.Tensor | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """As transformers calls it: query, key, value [1, heads, N, width]; returns [1, N, heads, width]."""
    if kwargs.get("position_bias") is not None:
        raise NotFlat("its attention adds a bias of positions")
    if attention_mask is not None and not isinstance(attention_mask, Band):
        raise NotFlat("its attention masks in a way of its own")
    window = sliding_window if attention_mask is None else attention_mask.window
    layer: Any = getattr(module, "layer_idx", None)
    if not isinstance(layer, int):
        raise NotFlat("its attention does not say which layer it is of")
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return attend(layer, q, k, v, window, scaling, softcap, s_aux).unsqueeze(0), None


def _mask(*args: Any, local_size: int | None = None, use_vmap: bool = False, **kwargs: Any) -> Band:
    if use_vmap:
        raise NotFlat("its mask is not the usual causal one")
    return Band(local_size)


AttentionInterface.register(NAME, _interface)
AttentionMaskInterface.register(NAME, _mask)
