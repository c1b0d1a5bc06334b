"""How texts share one `generate`: what the model's answers allow, found out at load, and who goes together.

Knows no thread and no sampling. `find_layout` runs in the load thread, `next_batch` is pure.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from modelserve.backends.base import Layout
from modelserve.errors import LoadError

TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference that rounding may cause: root mean square, relative to the logits' own. Padding that is seen
makes differences near 1."""

SHORT = 32
"""Prompts under so many tokens may share a batch whatever their lengths: padding them costs less than a step."""
WASTE = 0.5
"""Largest share of padding in the prompts of a batch otherwise."""

Logits = Callable[[Sequence[Sequence[int]]], torch.Tensor]
"""Of prompts run together: [prompts, steps, vocabulary], the same tokens following each."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """What one batch may hold."""

    layout: Layout
    rows: int
    tokens: int
    """Rows times the longest prompt and answer: what the keys and values of the batch need."""


def find_layout(
    logits: Logits, vocabulary: int, avoid: set[int], longest: int, dtype: torch.dtype
) -> tuple[Layout, str]:
    """The best layout that gives texts the logits that they get alone, and why not a better one.

    avoid: special tokens. longest: tokens of a prompt. dtype: what the model computes in. Raises LoadError where texts
    alone fail or give NaN.
    """
    rng = random.Random(0)
    ids = [id for id in range(vocabulary) if id not in avoid][:30000] or [0]
    texts = [rng.choices(ids, k=min(n, longest)) for n in (5, 41, 5)]
    try:
        alone = [logits([text])[0] for text in texts]
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever the architecture's code raises
        raise LoadError(f"the model cannot generate: {_line(error)}") from error
    if not all(torch.isfinite(row).all() for row in alone):
        raise LoadError(f"the weights give NaN or infinite values in {dtype}; try --dtype float32")
    reasons = []
    candidates: tuple[tuple[Layout, list[int]], ...] = (("padded", [0, 1]), ("equal", [0, 2]))
    for layout, members in candidates:
        try:
            together = logits([texts[i] for i in members])
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:
            reasons.append(f"{layout}: {_line(error)}")
            continue
        off = max(_difference(row, alone[i]) for row, i in zip(together, members, strict=True))
        if off <= TOLERANCE.get(dtype, 1e-4):
            return layout, "; ".join(reasons) or "each text got the logits that it gets alone"
        reasons.append(f"{layout}: logits differ by {off:.1e}")
    return "single", "; ".join(reasons)


def next_batch(waiting: Sequence[tuple[int, int]], bounds: Bounds) -> list[int]:
    """Who of `waiting`, (prompt, answer) tokens in the order of arrival, goes into the next batch; the first always."""
    chosen = [0]
    prompt, answer = waiting[0]
    real = prompt
    for i in range(1, len(waiting)):
        if len(chosen) == bounds.rows or bounds.layout == "single":
            break
        n, limit = waiting[i]
        rows, longest = len(chosen) + 1, max(prompt, n)
        if bounds.layout == "equal" and n != prompt:
            continue
        if rows * (longest + max(answer, limit)) > bounds.tokens:
            continue
        if longest > SHORT and real + n < (1 - WASTE) * rows * longest:
            continue
        chosen.append(i)
        prompt, answer, real = longest, max(answer, limit), real + n
    return chosen


def _difference(row: torch.Tensor, alone: torch.Tensor) -> float:
    off, wanted = row.float() - alone.float(), alone.float()
    return float(off.square().mean().sqrt() / wanted.square().mean().sqrt().clamp_min(1e-12))


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
