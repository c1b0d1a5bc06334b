"""Choosing tokens: against a slow implementation in numpy, transformers' own processors, and the laws of chance."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from scipy import stats

from modelserve.backends.sampling import CANDIDATES, Row, Sampler
from modelserve.errors import InferenceFailed
from modelserve.generation import Sampling, Sequence, Token

CPU = torch.device("cpu")
WIDE = 4 * CANDIDATES
"""A vocabulary in which a row may have to be sorted as a whole."""


def sequence(sampling: Sampling | None = None, *, seed: int = 0, **values: Any) -> Sequence:
    wanted: dict[str, Any] = {"prompt": [1, 2], "max_tokens": 1000, "end_ids": frozenset(), "constraint": None}
    return Sequence(sampling=sampling or Sampling(), seed=seed, sink=None, **(wanted | values))  # type: ignore[arg-type]


def some_logits(rows: int, vocabulary: int, *, seed: int = 0, scale: float = 3.0) -> torch.Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * scale


def choose(logits: torch.Tensor, *wishes: Sequence) -> list[Token]:
    """One step; every row must succeed."""
    sampler = Sampler(logits.shape[1], CPU)
    tokens = sampler.choose(logits, [sampler.row(one) for one in wishes])
    assert all(isinstance(token, Token) for token in tokens), tokens
    return tokens  # type: ignore[return-value]


def expected_logits(logits: np.ndarray, prompt: list[int], generated: list[int], s: Sampling) -> np.ndarray:
    """Word for word what Sampling says."""
    logits = logits.astype(np.float64).copy()
    for token in {*prompt, *generated}:
        logits[token] = (
            logits[token] * s.repetition_penalty if logits[token] < 0 else logits[token] / s.repetition_penalty
        )
    for token, count in Counter(generated).items():
        logits[token] -= s.presence_penalty + count * s.frequency_penalty
    for token, bias in s.logit_bias.items():
        logits[token] += bias
    return logits


def expected_probabilities(logits: np.ndarray, s: Sampling) -> np.ndarray:
    """min_p, then top_k, then top_p, as vLLM orders them."""
    p = np.exp((logits - logits.max()) / s.temperature)
    p /= p.sum()
    p[p < s.min_p * p.max()] = 0
    if s.top_k:
        p[p < np.sort(p)[::-1][: s.top_k][-1]] = 0
    p /= p.sum()
    order = np.argsort(-p)
    before = np.cumsum(p[order]) - p[order]
    p[order[(before >= s.top_p) & (np.arange(len(p)) > 0)]] = 0
    return p / p.sum()


LIMITS = [
    Sampling(),
    Sampling(temperature=0.3),
    Sampling(temperature=5.0),
    Sampling(top_k=1),
    Sampling(top_k=7),
    Sampling(top_k=CANDIDATES + 50, temperature=4.0),
    Sampling(top_k=10 * WIDE),
    Sampling(top_p=0.5),
    Sampling(top_p=0.95, temperature=30.0),
    Sampling(top_p=0.01),
    Sampling(min_p=0.2),
    Sampling(min_p=1e-6, temperature=2.0),
    Sampling(top_k=40, top_p=0.7, min_p=0.01, temperature=1.7),
    Sampling(top_k=CANDIDATES + 9, top_p=0.99, temperature=9.0),
    Sampling(top_p=0.999, min_p=0.3, temperature=20.0),
]


@pytest.mark.parametrize("vocabulary", [11, WIDE])
@pytest.mark.parametrize("sampling", LIMITS, ids=lambda s: f"k{s.top_k}-p{s.top_p}-m{s.min_p}-t{s.temperature}")
def test_every_draw_falls_where_the_reference_says(sampling: Sampling, vocabulary: int) -> None:
    """The random number of a row is known, so the one right token is too (but where it falls on a border)."""
    logits = some_logits(40, vocabulary)
    rows = [sequence(sampling, seed=i) for i in range(40)]
    for i, token in enumerate(choose(logits, *rows)):
        p = expected_probabilities(logits[i].double().numpy(), sampling)
        borders = np.cumsum(p)
        luck = Row(rows[i], vocabulary).draw()
        near = {
            int(np.searchsorted(borders, luck + d, side="right").clip(max=vocabulary - 1)) for d in (-1e-5, 0, 1e-5)
        }
        assert token.id in near
        assert p[token.id] > 0


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(top_k=5),
        Sampling(top_p=0.8),
        Sampling(min_p=0.05),
        Sampling(temperature=0.7),
        Sampling(temperature=8.0),
    ],
    ids=["top_k", "top_p", "min_p", "cold", "hot"],
)
def test_chances_are_those_of_transformers(sampling: Sampling) -> None:
    """Chi-square of 20,000 draws against the distribution that transformers' warpers leave."""
    logits = some_logits(1, 30, seed=3, scale=1.5)
    warpers: list[Any] = []
    if sampling.temperature != 1:
        warpers.append(transformers.TemperatureLogitsWarper(sampling.temperature))
    if sampling.top_k:
        warpers.append(transformers.TopKLogitsWarper(sampling.top_k))
    if sampling.top_p < 1:
        warpers.append(transformers.TopPLogitsWarper(sampling.top_p))
    if sampling.min_p:
        warpers.append(transformers.MinPLogitsWarper(sampling.min_p))
    p = transformers.LogitsProcessorList(warpers)(torch.zeros(1, 1, dtype=torch.long), logits.clone())[0].softmax(-1)
    draws = 20_000
    sampler = Sampler(30, CPU)
    row = sampler.row(sequence(sampling, max_tokens=draws + 1))
    counts = Counter(
        token.id for _ in range(draws // 50) for token in sampler.choose(logits.expand(50, -1), [row] * 50)
    )
    possible = (p > 0).nonzero()[:, 0].tolist()
    assert set(counts) <= set(possible)
    enough = [token for token in possible if p[token] * draws >= 5]
    observed = [counts[token] for token in enough]
    wanted = np.array([float(p[token]) for token in enough])
    assert stats.chisquare(observed, wanted / wanted.sum() * sum(observed)).pvalue > 0.001


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_greedy_is_argmax(dtype: torch.dtype) -> None:
    logits = some_logits(9, 5000).to(dtype)
    greedy = [sequence(Sampling(temperature=0, top_k=3, top_p=0.1)) for _ in range(9)]
    assert [token.id for token in choose(logits, *greedy)] == logits.argmax(-1).tolist()
    mixed = [greedy[0], sequence(seed=1), *greedy[2:]]
    assert [t.id for i, t in enumerate(choose(logits, *mixed)) if i != 1] == logits[[0, 2, 3, 4, 5, 6, 7, 8]].argmax(
        -1
    ).tolist()


def test_logits_are_left_as_they_were() -> None:
    logits = some_logits(3, 50)
    before = logits.clone()
    choose(
        logits,
        sequence(Sampling(logit_bias={3: 5.0})),
        sequence(Sampling(top_p=0.5)),
        sequence(Sampling(temperature=0)),
    )
    assert torch.equal(logits, before)


def test_penalties_and_bias_over_many_steps() -> None:
    """Greedy, so each step must find the reference's greatest logit; the tokens so far weigh on the next."""
    rng = random.Random(5)
    wishes = [
        Sampling(
            temperature=0,
            repetition_penalty=rng.choice([1.0, 1.3, 0.7]),
            presence_penalty=rng.choice([0.0, 1.5, -1.0]),
            frequency_penalty=rng.choice([0.0, 0.8, -0.2]),
            logit_bias={rng.randrange(20): rng.uniform(-4, 4) for _ in range(rng.randrange(4))},
        )
        for _ in range(24)
    ]
    prompts = [[rng.randrange(20) for _ in range(rng.randrange(1, 9))] for _ in wishes]
    sampler = Sampler(20, CPU)
    rows = [sampler.row(sequence(s, prompt=prompt)) for s, prompt in zip(wishes, prompts, strict=True)]
    generated: list[list[int]] = [[] for _ in wishes]
    for step in range(60):
        logits = some_logits(24, 20, seed=step, scale=1.0)
        for i, token in enumerate(sampler.choose(logits, rows)):
            want = expected_logits(logits[i].numpy(), prompts[i], generated[i], wishes[i])
            assert isinstance(token, Token)
            assert want[token.id] == pytest.approx(want.max(), abs=1e-5)
            generated[i].append(token.id)


def test_repetition_penalty_is_that_of_transformers() -> None:
    logits, prompt = some_logits(1, 40), [3, 9, 9, 12]
    theirs = transformers.RepetitionPenaltyLogitsProcessor(1.8)(torch.tensor([prompt]), logits.clone())
    sampler = Sampler(40, CPU)
    row = sampler.row(sequence(Sampling(repetition_penalty=1.8), prompt=prompt))
    torch.testing.assert_close(sampler._edit(logits, [row], {}), theirs)


def test_end_tokens_wait_for_min_tokens() -> None:
    logits = torch.zeros(1, 10)
    logits[0, 4], logits[0, 5], logits[0, 6] = 9.0, 8.0, 7.0
    sampler = Sampler(10, CPU)
    row = sampler.row(sequence(Sampling(temperature=0, min_tokens=2), end_ids=frozenset({4, 5, 99})))
    chosen = []
    while row.finish is None:
        chosen += [token.id for token in sampler.choose(logits, [row])]  # type: ignore[union-attr]
    assert (chosen, row.finish) == ([6, 6, 4], "stop")


def test_max_tokens_finish() -> None:
    sampler = Sampler(10, CPU)
    row = sampler.row(sequence(Sampling(temperature=0), max_tokens=2, end_ids=frozenset({9})))
    finishes = [row.finish for _ in range(2) if sampler.choose(torch.eye(10)[3:4], [row])]
    assert finishes == [None, "length"]


class Words:
    """A grammar that allows one set of tokens after another."""

    def __init__(self, *allowed: set[int], fails: bool = False) -> None:
        self.allowed, self.fails, self.seen = list(allowed), fails, list[int]()

    def mask(self) -> np.ndarray:
        if self.fails:
            raise RuntimeError("broken")
        words = np.zeros(2, np.uint32)
        for token in self.allowed[len(self.seen)]:
            words[token // 32] |= np.uint32(1 << token % 32)
        return words

    def accept(self, token: int) -> None:
        self.seen.append(token)

    @property
    def complete(self) -> bool:
        return len(self.seen) == len(self.allowed)


def test_grammars_mask_and_follow() -> None:
    """70 columns, of which the grammar knows 64: the others are not allowed, however likely."""
    sampler = Sampler(70, CPU)
    grammars = [Words({3, 40}, {63}, {0, 31, 32}), Words({5}, {6}, {7}, {8})]
    wishes = [Sampling(temperature=0), Sampling(top_p=0.9)]
    rows = [sampler.row(sequence(s, constraint=g)) for s, g in zip(wishes, grammars, strict=True)]
    rows.append(sampler.row(sequence(Sampling(temperature=0))))
    for step in range(3):
        logits = some_logits(3, 70, seed=step)
        logits[:, 66] = 50.0
        free = sampler.choose(logits, rows)[2]
        assert isinstance(free, Token)
        assert free.id == 66
    assert all(token in allowed for g in grammars for token, allowed in zip(g.seen, g.allowed, strict=False))
    assert [row.finish for row in rows] == ["stop", None, None]


def test_a_grammar_with_nothing_left_fails_its_row_alone() -> None:
    sampler = Sampler(64, CPU)
    constraints = [Words(set(), {1}), Words({2}, {3}, fails=True), None]
    rows = [sampler.row(sequence(Sampling(temperature=0), constraint=c)) for c in constraints]
    nothing, broken, fine = sampler.choose(some_logits(3, 64), rows)
    assert isinstance(nothing, InferenceFailed)
    assert isinstance(broken, InferenceFailed)
    assert isinstance(fine, Token)


SPECIAL = [
    Sampling(),
    Sampling(temperature=0),
    Sampling(temperature=0.6, top_k=4),
    Sampling(top_p=0.9, temperature=12.0),
    Sampling(frequency_penalty=1.0, logit_bias={3: 2.0}, logprobs=2),
    Sampling(temperature=3.0, repetition_penalty=1.4, min_p=0.01),
]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("sampling", SPECIAL)
def test_bad_logits_fail_their_row_alone(sampling: Sampling, bad: float) -> None:
    logits = some_logits(3, WIDE)
    good = choose(logits, *(sequence(sampling, seed=i) for i in range(3)))
    logits[1, 17] = bad
    sampler = Sampler(WIDE, CPU)
    tokens = sampler.choose(logits, [sampler.row(sequence(sampling, seed=i)) for i in range(3)])
    assert isinstance(tokens[1], InferenceFailed)
    assert [tokens[0], tokens[2]] == [good[0], good[2]]


def text(sampling: Sampling, seed: int, steps: int, company: list[Sequence], place: int) -> list[Token]:
    """What a row chooses over some steps at a place among others; its logits depend on its last token."""
    sampler = Sampler(WIDE, CPU)
    rows = [sampler.row(one) for one in company]
    rows.insert(place, sampler.row(sequence(sampling, seed=seed)))
    table, tokens = some_logits(50, WIDE, seed=9), list[Token]()
    others = random.Random(place)
    for _ in range(steps):
        logits = table[[others.randrange(50) for _ in rows]]
        logits[place] = table[tokens[-1].id % 50 if tokens else 0]
        token = sampler.choose(logits, rows)[place]
        assert isinstance(token, Token)
        tokens.append(token)
    return tokens


@pytest.mark.slow
@pytest.mark.parametrize("sampling", SPECIAL)
def test_the_same_seed_in_any_company(sampling: Sampling) -> None:
    company = [sequence(s, seed=100 + i) for i, s in enumerate(SPECIAL)]
    alone = text(sampling, 7, 30, [], 0)
    for others, place in ((company, 0), (company[::-1], 6), (company[2:4], 1)):
        beside = text(sampling, 7, 30, others, place)
        assert [token.id for token in beside] == [token.id for token in alone]
    if sampling.temperature:
        assert [token.id for token in text(sampling, 8, 30, [], 0)] != [token.id for token in alone]


@pytest.mark.parametrize("seed", [-1, 1 << 70])
def test_any_integer_is_a_seed(seed: int) -> None:
    assert choose(some_logits(1, 20), sequence(seed=seed)) == choose(some_logits(1, 20), sequence(seed=seed))


def test_equals_are_kept_together() -> None:
    """Half precision has many equal logits: whether one is a candidate must not hang on how they were sorted."""
    logits = torch.zeros(1, WIDE)
    logits[0, 100:] = -3.0
    sampler = Sampler(WIDE, CPU)
    row = sampler.row(sequence(Sampling(top_k=2), max_tokens=10_000))
    chosen = {token.id for _ in range(40) for token in sampler.choose(logits.expand(50, -1), [row] * 50)}
    assert chosen == set(range(100))
    logits[:] = 0.0
    row = sampler.row(sequence(Sampling(top_p=0.1), max_tokens=10_000))
    assert max(token.id for token in sampler.choose(logits.expand(50, -1), [row] * 50)) >= CANDIDATES


def test_logprobs_are_those_of_the_model() -> None:
    """Before temperature, penalties, bias and grammar; as many of the likeliest as each row asks for."""
    logits = some_logits(4, 300).bfloat16()
    wishes = [
        Sampling(temperature=0.2, logprobs=3, logit_bias={7: 90.0}),
        Sampling(temperature=0),
        Sampling(temperature=0, logprobs=0),
        Sampling(logprobs=5, top_k=2),
    ]
    tokens = choose(logits, *(sequence(s) for s in wishes))
    want = logits.float().log_softmax(-1)
    assert tokens[0].id == 7
    assert [len(token.top) for token in tokens] == [3, 0, 0, 5]
    assert tokens[1] == Token(int(logits[1].argmax()))
    for i in (0, 2, 3):
        assert tokens[i].logprob == pytest.approx(float(want[i, tokens[i].id]), abs=1e-5)
        values = [value for _, value in tokens[i].top]
        np.testing.assert_allclose(values, want[i].topk(len(values)).values, atol=1e-5)
        assert [pytest.approx(float(want[i, id]), abs=1e-5) for id, _ in tokens[i].top] == values


def test_score() -> None:
    logits, ids = some_logits(6, 100), [5, 99, 0, 5, 1, 2]
    want = logits.log_softmax(-1)
    tokens = Sampler(100, CPU).score(logits, ids, 4)
    for i, token in enumerate(tokens):
        assert token.id == ids[i]
        assert token.logprob == pytest.approx(float(want[i, ids[i]]), abs=1e-5)
        assert [id for id, _ in token.top] == want[i].topk(4).indices.tolist()
    assert [token.top for token in Sampler(100, CPU).score(logits, ids, 0)] == [()] * 6
    logits[3, 3] = math.nan
    with pytest.raises(InferenceFailed, match="finite"):
        Sampler(100, CPU).score(logits, ids, 4)
