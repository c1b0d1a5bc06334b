"""From logits to tokens: every field of `Sampling` that chooses, row by row, in one pass over the batch.

A row's token depends on its logits, its own random numbers and what it has generated, never on its neighbours: each
draws one number a step and looks it up in its own distribution, summed up in the order of the vocabulary. Rows that
ask for nothing special share one argmax. Knows no model, no schedule and no text; runs in the engine's thread.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence as Seq
from typing import Any

import numpy as np
import torch

from modelserve.errors import InferenceFailed
from modelserve.generation import Finish, Sequence, Token

log = logging.getLogger(__name__)

COLDEST = 1e-5
"""Temperatures below are 0, as in vLLM: dividing by them says nothing but which logit is the greatest."""

CANDIDATES = 256
"""Tokens among which top_k, top_p and min_p are looked for first; where they reach further, the whole row is sorted
(3 ms for 16 rows of 150,000 tokens against 100). The same for every row, whatever its neighbours ask for."""


class Row:
    """What choosing must know of one sequence: its wishes, its random numbers and what it has generated."""

    __slots__ = ("_counts", "_ids", "_place", "_random", "bias", "ends", "filtered", "finish", "generated", "greedy",
                 "least", "penalised", "sequence")  # fmt: skip

    def __init__(self, sequence: Sequence, vocabulary: int) -> None:
        sampling = sequence.sampling
        self.sequence = sequence
        self.greedy = sampling.temperature < COLDEST
        self.filtered = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        repeating = sampling.repetition_penalty != 1
        self.penalised = repeating or sampling.presence_penalty != 0 or sampling.frequency_penalty != 0
        self.bias = (
            np.array(list(sampling.logit_bias), np.int64),
            np.array([*sampling.logit_bias.values()], np.float32),
        )
        self.ends = np.array([token for token in sequence.end_ids if token < vocabulary], np.int64)
        self.least = sampling.min_tokens
        """Before so many the end tokens are not chosen; an engine may know of more than the caller asked for."""
        self.generated = 0
        self.finish: Finish | None = None
        """Why nothing follows the last token; None while something may."""
        self._random = np.random.default_rng(sequence.seed & 0xFFFF_FFFF_FFFF_FFFF)
        seen = sorted({token for token in sequence.prompt if token < vocabulary}) if repeating else []
        self._ids = np.array([*seen, *[0] * 16], np.int64)
        self._counts = np.zeros(len(self._ids), np.float32)
        self._place = {token: place for place, token in enumerate(seen)}
        """Token -> where it is in _ids and _counts, which have room for more."""

    def draw(self) -> float:
        """The next random number, in [0, 1); one for each token that is not chosen greedily."""
        return float(self._random.random(dtype=np.float32))

    def penalties(self) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """(tokens that were in the prompt or generated, what to take off their logits)."""
        sampling, counts = self.sequence.sampling, self._counts[: len(self._place)]
        off = counts * np.float32(sampling.frequency_penalty) + (counts > 0) * np.float32(sampling.presence_penalty)
        return self._ids[: len(self._place)], off

    def take(self, token: int) -> None:
        """It has been chosen."""
        self.generated += 1
        if self.penalised:
            place = self._place.setdefault(token, len(self._place))
            if place == len(self._ids):
                self._ids = np.concatenate((self._ids, np.zeros_like(self._ids)))
                self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
            self._ids[place] = token
            self._counts[place] += 1
        constraint = self.sequence.constraint
        if constraint is not None:
            constraint.accept(token)
        if token in self.sequence.end_ids or (constraint is not None and constraint.complete):
            self.finish = "stop"
        elif self.generated >= self.sequence.max_tokens:
            self.finish = "length"


class Sampler:
    """Chooses the next token of many sequences at once."""

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        """vocabulary: columns of the logits."""
        self._vocabulary = vocabulary
        self._device = device

    def row(self, sequence: Sequence) -> Row:
        return Row(sequence, self._vocabulary)

    @torch.inference_mode()
    def choose(self, logits: torch.Tensor, rows: Seq[Row]) -> list[Token | InferenceFailed]:
        """The next token of every row, which each row has taken; row i sees logits[i] of [R, vocabulary].

        InferenceFailed in the place of a row that cannot go on: its logits have NaN or infinity, or its grammar lets
        nothing follow. The other rows never notice.
        """
        failed: dict[int, InferenceFailed] = {}
        edited = self._edit(logits.detach(), rows, failed)
        ids, peaks = self._pick(edited, rows)
        told = [i for i, row in enumerate(rows) if row.sequence.sampling.logprobs is not None]
        top = max((rows[i].sequence.sampling.logprobs or 0 for i in told), default=0)
        parts = [ids, peaks]
        if told:
            at = self._tensor(told)
            parts += _logprobs(logits.detach()[at].float(), ids[at], top)
        host = _to_host(parts)
        chosen, peak = host[0].astype(np.int64).tolist(), host[1]
        scores = dict(zip(told, _tokens([chosen[i] for i in told], *host[2:]), strict=True)) if told else {}
        answers: list[Token | InferenceFailed] = []
        for i, row in enumerate(rows):
            if i not in failed and not math.isfinite(peak[i]):
                failed[i] = _unusable(peak[i])
            if i not in failed:
                try:
                    row.take(chosen[i])
                except Exception:  # a grammar's: this row's alone
                    log.exception("a grammar refused the token that it had allowed")
                    failed[i] = InferenceFailed("the grammar failed on the text so far")
            if i in failed:
                answers.append(failed[i])
            elif i in scores:
                token = scores[i]
                answers.append(Token(token.id, token.logprob, token.top[: row.sequence.sampling.logprobs]))
            else:
                answers.append(Token(chosen[i]))
        return answers

    @torch.inference_mode()
    def score(self, logits: torch.Tensor, ids: Seq[int], top: int) -> list[Token]:
        """ids[i] with its logprob under logits[i] of [n, vocabulary], and the `top` likeliest there.

        Raises InferenceFailed for NaN.
        """
        host = _to_host(_logprobs(logits.detach().float(), self._tensor(ids), top))
        if np.isnan(host[0]).any():
            raise _unusable(math.nan)
        return _tokens(ids, *host)

    def _edit(self, logits: torch.Tensor, rows: Seq[Row], failed: dict[int, InferenceFailed]) -> torch.Tensor:
        """Penalties, bias, min_tokens and grammars, on a float32 copy; `logits` itself where nobody asks for any."""
        penalised = [(i, row) for i, row in enumerate(rows) if row.penalised]
        biased = [(i, row) for i, row in enumerate(rows) if len(row.bias[0])]
        early = [(i, row) for i, row in enumerate(rows) if len(row.ends) and _must_go_on(row)]
        bound = [(i, row) for i, row in enumerate(rows) if row.sequence.constraint is not None]
        if not (penalised or biased or early or bound):
            return logits
        logits = logits.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
        flat, width = logits.view(-1), logits.shape[1]
        if penalised:
            tokens, offs = zip(*(row.penalties() for _, row in penalised), strict=True)
            at = self._tensor(_places(tokens, [i for i, _ in penalised], width))
            times = self._tensor(
                np.repeat([row.sequence.sampling.repetition_penalty for _, row in penalised], [*map(len, tokens)]),
            ).float()
            seen = flat[at]
            flat[at] = torch.where(seen > 0, seen / times, seen * times) - self._tensor(np.concatenate(offs))
        if biased:
            at = self._tensor(_places([row.bias[0] for _, row in biased], [i for i, _ in biased], width))
            flat[at] += self._tensor(np.concatenate([row.bias[1] for _, row in biased]))
        if early:
            flat[self._tensor(_places([row.ends for _, row in early], [i for i, _ in early], width))] = -math.inf
        for i, row in bound:
            try:
                allowed = _allowed(row, width)
            except Exception:  # a grammar's: this row's alone
                log.exception("a grammar could not say what may follow")
                failed[i] = InferenceFailed("the grammar failed on the text so far")
            else:
                logits[i].masked_fill_(~torch.from_numpy(allowed).to(self._device), -math.inf)
        return logits

    def _pick(self, logits: torch.Tensor, rows: Seq[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """(chosen ids [R], greatest logits [R]); a row whose greatest logit is not finite gets any id."""
        groups = {
            "greedy": [i for i, row in enumerate(rows) if row.greedy],
            "whole": [i for i, row in enumerate(rows) if not row.greedy and not row.filtered],
            "filtered": [i for i, row in enumerate(rows) if not row.greedy and row.filtered],
        }
        if len(groups["greedy"]) == len(rows):
            return self._greatest(logits)
        ids = torch.empty(len(rows), dtype=torch.int64, device=self._device)
        peaks = torch.empty(len(rows), dtype=torch.float32, device=self._device)
        for group, members in groups.items():
            if not members:
                continue
            everyone = len(members) == len(rows)
            at = self._tensor(members)
            own = logits if everyone else logits[at]
            if group == "greedy":
                ids[at], peaks[at] = self._greatest(own)
                continue
            peak = own.amax(-1).float()
            cold = self._tensor([rows[i].sequence.sampling.temperature for i in members]).float()
            own = (own - peak[:, None]).div_(cold[:, None])  # a row with NaN stays so, and gets some column
            luck = self._tensor([rows[i].draw() for i in members]).float()
            if group == "whole":
                ids[at] = _look_up(own.exp_(), luck)
            else:
                asked = [rows[i].sequence.sampling for i in members]
                limits = self._tensor([[one.top_k, one.top_p, math.log(one.min_p or 1e-45)] for one in asked])
                ids[at] = _filtered(own, limits, luck, min(CANDIDATES, own.shape[1]))
            peaks[at] = peak
        return ids, peaks

    def _greatest(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self._device.type != "cpu":
            peaks, ids = logits.max(-1)
            return ids, peaks.float()
        values = logits.float().numpy()  # its argmax is ten times as fast as torch's on a CPU
        chosen = values.argmax(-1)
        return torch.from_numpy(chosen), torch.from_numpy(values[np.arange(len(values)), chosen])

    def _tensor(self, values: Any) -> torch.Tensor:
        return torch.as_tensor(values, device=self._device)


def _must_go_on(row: Row) -> bool:
    """Too short to end, unless its grammar lets nothing else follow."""
    constraint = row.sequence.constraint
    return row.generated < row.least and not (constraint is not None and constraint.complete)


def _allowed(row: Row, width: int) -> np.ndarray[Any, Any]:
    """The grammar's mask as bool [width]: columns that it does not know are not allowed."""
    assert row.sequence.constraint is not None
    words = np.ascontiguousarray(row.sequence.constraint.mask(), dtype="<u4")
    return np.unpackbits(words.view(np.uint8), bitorder="little", count=width).view(np.bool_)


def _places(tokens: Seq[np.ndarray[Any, Any]], rows: Seq[int], width: int) -> np.ndarray[Any, Any]:
    """Of tokens[j] in row rows[j], in the flattened logits."""
    return np.concatenate([ids + row * width for ids, row in zip(tokens, rows, strict=True)])


def _look_up(weights: torch.Tensor, luck: torch.Tensor) -> torch.Tensor:
    """The column in which luck, of [0, 1), falls when the weights [R, C] are laid end to end: never one of weight 0."""
    # A CPU sums in double and rounds; CUDA sums in blocks, whose rounding could step over a 0 in single precision.
    ends = weights.cumsum(-1, dtype=torch.float64 if weights.device.type == "cuda" else None)
    found = torch.searchsorted(ends, luck.to(ends.dtype)[:, None] * ends[:, -1:], right=True)[:, 0]
    return found.clamp_(max=weights.shape[1] - 1)


def _filtered(logits: torch.Tensor, limits: torch.Tensor, luck: torch.Tensor, width: int) -> torch.Tensor:
    """Chosen columns of logits [R, V] (greatest 0, temperature applied) within limits [R, 3]: top_k, top_p, log min_p.

    In vLLM's order: min_p, then top_k, then top_p of what those left. Tokens as likely as the last one that is kept
    are kept too, so that the order of equals does not matter. Looks at the `width` greatest; a row whose limits do not
    fall among them is sorted as a whole.
    """
    values, columns = logits.topk(width)
    asked_k, top_p, floor = limits[:, 0].long(), limits[:, 1:2].float(), limits[:, 2:3].float()
    last = values.gather(1, (asked_k - 1).clamp(0, width - 1)[:, None])
    floor = torch.where((asked_k > 0) & (asked_k <= width), last[:, 0], -math.inf)[:, None].maximum(floor)
    whole = width == logits.shape[1]
    inside = (values[:, -1:] < floor) | whole
    weights = values.exp() * (values >= floor)
    mass = weights.sum(-1, keepdim=True)
    if not bool(inside.all()):
        everything = torch.where(logits >= floor, logits.exp(), 0.0).sum(-1, keepdim=True)
        mass = torch.where(inside, mass, everything)
    before = weights.cumsum(-1) - weights
    kept = (weights > 0) & ((before < top_p * mass) | (top_p >= 1))
    kept[:, 0] = True
    floor = torch.where(kept, values, math.inf).amin(-1, keepdim=True)
    inside = (values[:, -1:] < floor) | whole
    # A top_k beyond the width has not been looked at, whatever top_p says.
    settled = (inside[:, 0] & (asked_k <= width)) | whole
    columns, order = columns.sort(-1)
    weights = torch.where(values >= floor, values.exp(), 0.0).gather(1, order)
    chosen = columns.gather(1, _look_up(weights, luck)[:, None])[:, 0]
    if not whole and not bool(settled.all()):
        rest = (~settled).nonzero()[:, 0]
        chosen[rest] = _filtered(logits[rest], limits[rest], luck[rest], logits.shape[1])
    return chosen


def _logprobs(logits: torch.Tensor, ids: torch.Tensor, top: int) -> list[torch.Tensor]:
    """Of float32 logits [n, V]: logprobs of ids [n], and of the likeliest [n, top] with their ids [n, top]."""
    total = logits.logsumexp(-1, keepdim=True)
    values, columns = logits.topk(min(top, logits.shape[1]))
    return [(logits.gather(1, ids[:, None]) - total)[:, 0], values - total, columns]


def _to_host(parts: list[torch.Tensor]) -> list[np.ndarray[Any, Any]]:
    """In one transfer; as float64, which holds every token id."""
    flat = torch.cat([part.double().reshape(-1) for part in parts]).cpu().numpy()
    ends = np.cumsum([part.numel() for part in parts])[:-1]
    return [piece.reshape(part.shape) for piece, part in zip(np.split(flat, ends), parts, strict=True)]


def _tokens(
    ids: Seq[int], logprobs: np.ndarray[Any, Any], values: np.ndarray[Any, Any], columns: np.ndarray[Any, Any]
) -> list[Token]:
    tops = (
        tuple(zip(row.astype(np.int64).tolist(), likely.tolist(), strict=True))
        for row, likely in zip(columns, values, strict=True)
    )
    return [Token(id, logprob, top) for id, logprob, top in zip(ids, logprobs.tolist(), tops, strict=True)]


def _unusable(peak: float) -> InferenceFailed:
    if peak == -math.inf:
        return InferenceFailed("no token may follow: the limits of this request leave none")
    return InferenceFailed("the model's logits are not finite numbers")
