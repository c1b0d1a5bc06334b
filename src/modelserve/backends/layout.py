"""Which layout keeps a model's answers: found by comparison with each text alone, never assumed.

A model whose answer changes beside padding or neighbours (a custom architecture, a head that counts padding, attention
of its own) fails the comparison, and is batched only in a way that passed. Runs once, at load, in the load thread.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from modelserve.backends.base import Layout
from modelserve.backends.batch import SplitStates, WholeStates, pad, run
from modelserve.backends.network import Network
from modelserve.errors import LoadError
from modelserve.types import Encoding

TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 1e-1}
"""Largest difference that rounding may cause, relative to the answer's largest value (absolute below 1)."""

Head = Literal["token", "sequence", "none"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a model may be batched, and why not better."""

    layout: Layout
    split: bool
    varlen: bool
    reason: str


def samples(vocabulary: int, longest: int, avoid: set[int]) -> list[Encoding]:
    """Texts of random ids: two of one length, short ones, and one longer than the usual attention windows."""
    rng = random.Random(0)
    ids = [i for i in range(vocabulary) if i not in avoid][:30000] or [0]
    lengths = sorted({min(n, longest) for n in (3, 7, 16, 33, 270)})
    lengths.append(lengths[len(lengths) // 2])
    return [Encoding(ids=rng.choices(ids, k=n)) for n in sorted(lengths)]


def find(network: Network, head: Head, texts: Sequence[Encoding], *, varlen: bool) -> Verdict:
    """The best layout that gives each of `texts` the answer that it gets alone. Raises LoadError if none does."""
    alone = [_answers(network, head, [text], "single", split=False)[0] for text in texts]
    tolerance = TOLERANCE.get(alone[0].dtype, 1e-5) * max(1.0, max(a.abs().max().item() for a in alone))
    if not torch.isfinite(torch.cat([a.flatten() for a in alone])).all():
        raise LoadError(f"the weights give NaN or infinite values in {alone[0].dtype}; try --dtype float32")
    if head == "sequence":
        network.first_row_only = _reads_first_row_only(network, texts)

    reasons: list[str] = [] if network.can_pack else ["packed: this architecture brings its own attention or positions"]

    def passes(name: str, answers: Callable[[], list[torch.Tensor]]) -> bool:
        try:
            difference = max((a - b).abs().max().item() for a, b in zip(alone, answers(), strict=True))
        except Exception as error:  # an architecture may refuse a layout in any way; the log says which
            reasons.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
            return False
        if difference <= tolerance:
            return True
        reasons.append(f"{name}: answers differ by {difference:.1e}")
        return False

    def verdict(layout: Layout, *, split: bool, varlen: bool = False) -> Verdict:
        return Verdict(layout, split, varlen, "; ".join(reasons) or "passed the comparison with each text alone")

    by_length = _by_length(texts)
    for variable in (True, False) if varlen else (False,):
        name = "packed, variable-length kernel" if variable else "packed"
        if network.can_pack and passes(
            name,
            lambda v=variable: _answers(network, head, texts, "packed", split=True, varlen=v),  # type: ignore[misc]
        ):
            return verdict("packed", split=True, varlen=variable)
    for split in (True, False):
        if passes(
            "padded" if split else "padded, whole", lambda s=split: _answers(network, head, texts, "padded", split=s)
        ):  # type: ignore[misc]
            return verdict("padded", split=split)
    for split in (True, False):
        if passes(
            "equal lengths",
            lambda s=split: [a for group in by_length for a in _answers(network, head, group, "equal", split=s)],  # type: ignore[misc]
        ):
            return verdict("equal", split=split)
    return verdict("single", split=False)


def _by_length(texts: Sequence[Encoding]) -> list[list[Encoding]]:
    groups: dict[int, list[Encoding]] = {}
    for text in texts:
        groups.setdefault(len(text), []).append(text)
    return list(groups.values())


def _answers(
    network: Network, head: Head, texts: Sequence[Encoding], layout: Layout, *, split: bool, varlen: bool = False
) -> list[torch.Tensor]:
    """What each text's rows come out as, on whichever head is served."""
    states: SplitStates | WholeStates = run(network, texts, layout, split=split, varlen=varlen)
    if head == "sequence":
        return list(states.sequence_logits())
    rows = states.hidden if head == "none" else states.token_logits()
    return list(rows.split([len(text) for text in texts]))


def _reads_first_row_only(network: Network, texts: Sequence[Encoding]) -> bool:
    ids, mask, types = pad(network, texts[-1:], [len(texts[-1])])
    try:
        hidden = network.encode_padded(ids, mask, types)
        whole, first = network.head(hidden), network.head(hidden[:, :1])
    except Exception:  # the head cannot be run apart at all; `find` says so with its own comparison
        return False
    return bool(torch.allclose(whole, first, rtol=0, atol=1e-6 * max(1.0, whole.abs().max().item())))
