"""The packed forward pass in its plainest form, on transformers alone: the engine with nothing around it.

Tokens of a batch lie end to end in one row; attention runs per run of neighbours of equal length, so that nothing is
spent on padding. Knows BERT-like models only (MiniLM), which is what the benchmark serves.
"""

from __future__ import annotations

from itertools import groupby
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Any, **kwargs: Any) -> tuple[Tensor, None]:
    """query, key, value: [1, heads, T, d]. Returns [1, T, heads, d]."""
    heads, width = query.shape[1], query.shape[3]
    parts, start = [], 0
    for count, length in kwargs["groups"]:
        end = start + count * length
        q, k, v = (x[0, :, start:end].unflatten(1, (count, length)).transpose(0, 1) for x in (query, key, value))
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=kwargs["scaling"])
        parts.append(out.transpose(1, 2).reshape(end - start, heads, width))
        start = end
    return torch.cat(parts).unsqueeze(0), None


AttentionInterface.register("packed", attention)


def packed_forward(model: Any, ids: list[list[int]]) -> Tensor:
    """Normalised mean embeddings [len(ids), H], rows in the order of `ids`, which is sorted by length."""
    groups = [(len(list(run)), length) for length, run in groupby(len(row) for row in ids)]
    flat = torch.tensor([[token for row in ids for token in row]])
    positions = torch.cat([torch.arange(length).repeat(count) for count, length in groups]).unsqueeze(0)
    with torch.inference_mode():
        hidden = model(input_ids=flat, position_ids=positions, groups=groups).last_hidden_state[0]
        start, pooled = 0, []
        for count, length in groups:
            pooled.append(hidden[start : start + count * length].view(count, length, -1).mean(1))
            start += count * length
        return torch.nn.functional.normalize(torch.cat(pooled))
