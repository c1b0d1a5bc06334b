"""Token vectors to one vector per text, on packed hidden states. Same results as sentence-transformers' Pooling.

Pure torch, called in the backend thread. One loop step per group of texts of equal length; knows no task.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

Mode = Callable[[torch.Tensor, torch.Tensor | None], torch.Tensor]


def pool(
    hidden: torch.Tensor,
    groups: Sequence[tuple[int, int, int]],
    modes: Sequence[str],
    skip: Sequence[int],
) -> torch.Tensor:
    """float32 [B, len(modes) * H] from hidden states [T, H], texts end to end.

    groups: as States'. skip: leading tokens per text that do not count (a prompt); less than the text's length.
    """
    pooled = []
    text = 0
    for first, n, length in groups:
        block = hidden[first : first + n * length].view(n, length, -1).float()
        skipped = skip[text : text + n]
        text += n
        kept = None
        if any(skipped):
            positions = torch.arange(length, device=hidden.device)
            kept = positions >= torch.tensor(skipped, device=hidden.device)[:, None]
        vectors = [MODES[mode](block, kept) for mode in modes]
        pooled.append(vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1))
    return pooled[0] if len(pooled) == 1 else torch.cat(pooled)


def _cls(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is None:
        return block[:, 0]
    first = kept.int().argmax(1)
    return block[torch.arange(len(block), device=block.device), first]


def _last(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    return block[:, -1]


def _max(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is not None:
        block = block.masked_fill(~kept.unsqueeze(-1), float("-inf"))
    return block.amax(1)


def _mean(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is None:
        return block.mean(1)
    return _weighted(block, kept.float()) / kept.sum(1, keepdim=True)


def _mean_sqrt_len(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    if kept is None:
        return block.sum(1) / math.sqrt(block.shape[1])
    return _weighted(block, kept.float()) / kept.sum(1, keepdim=True).sqrt()


def _weighted_mean(block: torch.Tensor, kept: torch.Tensor | None) -> torch.Tensor:
    """Weights 1, 2, 3, … by position in the text; a skipped prompt does not move them."""
    weights = torch.arange(1, block.shape[1] + 1, device=block.device, dtype=block.dtype).expand(block.shape[:2])
    if kept is not None:
        weights = weights * kept
    return _weighted(block, weights) / weights.sum(1, keepdim=True)


def _weighted(block: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return (weights.unsqueeze(1) @ block).squeeze(1)


MODES: dict[str, Mode] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt_len,
    "weightedmean": _weighted_mean,
    "lasttoken": _last,
}
"""By sentence-transformers' names; in this order the old pooling_mode_* flags are joined."""
