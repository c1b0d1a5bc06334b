"""Which layout keeps a model's answers: found by comparison with each text alone, never assumed.

A model whose answer changes beside padding or neighbours (a custom architecture, a head that counts padding, attention
of its own) fails the comparison, and is batched only in a way that passed. Runs once, at load, in the load thread.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from modelserve.backends.base import Layout
from modelserve.backends.batch import pad, run
from modelserve.backends.network import Network
from modelserve.errors import LoadError
from modelserve.types import Encoding

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference that rounding may cause, relative to the answer's largest value (absolute below 1)."""

LAYOUTS_WITH_ROWS: tuple[Layout, ...] = ("padded", "equal")

Head = Literal["token", "sequence", "none"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model may be batched, and why not better."""

    layout: Layout
    split: bool
    varlen: bool
    reason: str


def samples(vocabulary: int, longest: int, avoid: set[int], end: int | None) -> list[Encoding]:
    """Texts of random ids: two of one length, short ones, and one longer than the usual attention windows.

    end: the token that ends a text, which some heads look for (BART's).
    """
    rng = random.Random(0)
    ids = [i for i in range(vocabulary) if i not in avoid][:30000] or [0]
    lengths = sorted({min(n, longest) for n in (3, 7, 16, 33, 270)})
    lengths.append(lengths[len(lengths) // 2])
    last = [] if end is None else [end]
    return [Encoding(ids=rng.choices(ids, k=n - len(last)) + last) for n in sorted(lengths)]


def find(network: Network, head: Head, texts: Sequence[Encoding], *, varlen: bool) -> Verdict:
    """The best layout that gives each of `texts` the answer that it gets alone.

    varlen: the device has a variable-length kernel for this dtype. Raises LoadError for weights that give NaN, and for
    a network that fails.
    """
    try:
        alone = _answers(network, head, texts, "single", split=False)
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever the architecture's code raises
        raise LoadError(f"the network fails on texts of {len(texts[0])} to {len(texts[-1])} tokens: {error}") from error
    if not all(torch.isfinite(answer).all() for answer in alone):
        raise LoadError(f"the weights give NaN or infinite values in {alone[0].dtype}; try --dtype float32")
    tolerance = TOLERANCE.get(alone[0].dtype, 1e-5) * max(1.0, *(answer.abs().max().item() for answer in alone))
    if head == "sequence":
        network.first_row_only = _reads_first_row_only(network, texts)
    reasons = [] if network.can_pack else ["packed: this architecture brings its own attention or positions"]
    for layout, split, variable in _candidates(packed=network.can_pack, varlen=varlen):
        try:
            answers = _answers(network, head, texts, layout, split=split, varlen=variable)
            difference = max((a - b).abs().max().item() for a, b in zip(alone, answers, strict=True))
        except Exception as error:  # an architecture may refuse a layout in any way; the log says in which
            reasons.append(f"{layout}: {type(error).__name__}: {error}".splitlines()[0])
            continue
        if difference <= tolerance:
            return Verdict(layout, split, variable, "; ".join(reasons) or "each text got the answer that it gets alone")
        reasons.append(f"{layout}: answers differ by {difference:.1e}")
    return Verdict("single", False, False, "; ".join(reasons))


def _candidates(*, packed: bool, varlen: bool) -> Iterator[tuple[Layout, bool, bool]]:
    """(layout, split, variable-length kernel), the fastest first."""
    if packed and varlen:
        yield "packed", True, True
    if packed:
        yield "packed", True, False
    for layout in LAYOUTS_WITH_ROWS:
        yield layout, True, False
        yield layout, False, False


def _answers(
    network: Network, head: Head, texts: Sequence[Encoding], layout: Layout, *, split: bool, varlen: bool = False
) -> list[torch.Tensor]:
    """What each text's rows come out as, on whichever head is served."""
    answers: dict[int, torch.Tensor] = {}
    for together in _passes(texts, layout):
        batch = [texts[i] for i in together]
        states = run(network, batch, layout, split=split, varlen=varlen)
        if head == "sequence":
            answers |= zip(together, states.sequence_logits(), strict=True)
        else:
            rows = states.hidden if head == "none" else states.token_logits()
            answers |= zip(together, torch.split(rows, states.lengths), strict=True)
    return [answers[i] for i in range(len(texts))]


def _passes(texts: Sequence[Encoding], layout: Layout) -> list[list[int]]:
    """Which texts may share a pass."""
    if layout in ("packed", "padded"):
        return [list(range(len(texts)))]
    passes: dict[int, list[int]] = {}
    for i, text in enumerate(texts):
        passes.setdefault(i if layout == "single" else len(text), []).append(i)
    return list(passes.values())


def _reads_first_row_only(network: Network, texts: Sequence[Encoding]) -> bool:
    ids, mask, types = pad(network, texts[-1:], [len(texts[-1])])
    try:
        hidden = network.encode_padded(ids, mask, types)
        whole, first = network.head(hidden), network.head(hidden[:, :1])
    except Exception:  # the head cannot be run apart at all; the comparison in `find` says so with its reason
        return False
    return bool(torch.allclose(whole, first, rtol=0, atol=1e-6 * max(1.0, whole.abs().max().item())))
