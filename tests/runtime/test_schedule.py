"""What goes into the next step: fairness, budgets, stalls, eviction; and a simulation that ends for everybody."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from modelserve.runtime.pace import Paces
from modelserve.runtime.schedule import LEAST_CHUNK, SCORED_CHUNK, STALL, Bounds, Pace, newcomers_tokens, plan

_BOUNDS = Bounds(rows=4, tokens=4000, chunk=512)
_PACE = Pace(step_s=0.05, tokens_per_s=1000.0)


@dataclass(eq=False)
class _Row:
    length: int
    computed: int = 0
    final: int = 0
    scored: bool = False
    cancelled: bool = False

    def __post_init__(self) -> None:
        self.final = self.final or self.length + 10


def _running(length: int) -> _Row:
    return _Row(length, length - 1)


def test_everyone_who_runs_computes_one_token() -> None:
    assert plan([_running(5), _running(900), _running(2)], [], _BOUNDS, _PACE).work == [(0, 1), (1, 1), (2, 1)]


def test_newcomers_come_in_order_and_nobody_overtakes() -> None:
    waiting = [_Row(100), _Row(600), _Row(5)]
    todo = plan([], waiting, _BOUNDS, _PACE)
    assert todo.work == [(0, 100), (1, 412)]
    assert todo.admitted == [0, 1]


def test_those_who_began_go_on_before_others_begin() -> None:
    todo = plan([_Row(600, 100)], [_Row(30)], _BOUNDS, _PACE)
    assert todo.work == [(0, 500), (1, 12)]


def test_only_so_many_at_once() -> None:
    todo = plan([_running(5)] * 3, [_Row(1), _Row(1)], _BOUNDS, _PACE)
    assert todo.admitted == [0]


@pytest.mark.parametrize(("step_s", "rate"), [(0.05, 1000.0), (0.5, 40.0), (0.02, 4000.0)])
def test_a_newcomer_stalls_others_no_longer_than_promised(step_s: float, rate: float) -> None:
    todo = plan([_running(50)], [_Row(1500)], _BOUNDS, Pace(step_s, rate))
    (_, one), (_, n) = todo.work
    assert one == 1
    assert n >= LEAST_CHUNK
    assert step_s + n / rate <= STALL * step_s + LEAST_CHUNK / rate


def test_chunks_are_large_when_nobody_runs_but_end_within_a_second() -> None:
    assert newcomers_tokens(0, 1, _BOUNDS, _PACE) == 512
    assert newcomers_tokens(0, 1, _BOUNDS, Pace(1.0, 100.0)) == 96
    assert newcomers_tokens(0, 1, _BOUNDS, Pace()) < 512
    assert newcomers_tokens(1, 1, _BOUNDS, Pace(0.0, 100.0)) < 512


def test_many_who_wait_weigh_more_than_few_who_run() -> None:
    """50 ms a step and 1000 tokens/s: 30 are for one newcomer, six times as many where as many come as run, and all
    of a step are a multiple of 16."""
    assert 15 + newcomers_tokens(15, 1, _BOUNDS, _PACE) == 32
    assert 1 + newcomers_tokens(1, 1, _BOUNDS, _PACE) == 16
    assert 8 + newcomers_tokens(8, 8, _BOUNDS, _PACE) == 176
    assert 12 + newcomers_tokens(12, 4, _BOUNDS, _PACE) == 64
    assert 1 + newcomers_tokens(1, 10_000, _BOUNDS, _PACE) == 512, "no more than a step may have"
    todo = plan([_running(50)], [_Row(100) for _ in range(7)], _BOUNDS, _PACE)
    assert [n for _, n in todo.work] == [1, 100, 100, 100], "there is room for four"
    full = Bounds(2, _BOUNDS.tokens, _BOUNDS.chunk)
    todo = plan([_running(50)], [_Row(64) for _ in range(7)], full, _PACE)
    assert [n for _, n in todo.work] == [1, 15], "those there is no room for do not count"


def test_cancelled_ones_are_dropped_wherever_they_are() -> None:
    todo = plan([_running(5), _Row(9, 8, cancelled=True)], [_Row(3, cancelled=True), _Row(4)], _BOUNDS, _PACE)
    assert (todo.dropped_running, todo.dropped_waiting, todo.admitted) == ([1], [0], [1])
    assert todo.work == [(0, 1), (2, 4)]


def test_memory_that_is_short_is_taken_from_the_youngest() -> None:
    bounds = Bounds(rows=4, tokens=250, chunk=512)
    todo = plan([_running(100), _running(40), _running(30)], [_Row(1)], bounds, _PACE)
    assert todo.evicted == [2]
    assert todo.work == [(0, 1), (1, 1)]
    assert todo.admitted == []
    assert plan([_running(250)], [], bounds, _PACE).work == [(0, 1)]


def test_nobody_is_let_in_who_would_have_to_go_at_once() -> None:
    bounds = Bounds(rows=4, tokens=200, chunk=512)
    assert plan([_running(95)], [_Row(5, final=500)], bounds, _PACE).admitted == []
    assert plan([_running(30)], [_Row(5, final=36)], bounds, _PACE).admitted == [0]
    assert plan([], [_Row(150, final=200)], bounds, _PACE).admitted == [0]


def test_scored_prompts_come_in_small_chunks() -> None:
    assert plan([], [_Row(400, scored=True)], _BOUNDS, _PACE).work == [(0, SCORED_CHUNK)]


@pytest.mark.parametrize("seed", range(20))
def test_everybody_comes_to_an_end(seed: int) -> None:
    """Random callers under random bounds: work is never empty, memory and rows hold, the first come is first let in."""
    rng = random.Random(seed)
    bounds = Bounds(rng.randint(1, 6), rng.randint(120, 600), rng.randint(8, 200))
    waiting: list[_Row] = []
    for _ in range(30):
        length = rng.randint(1, 100)
        waiting.append(_Row(length, final=min(bounds.tokens, length + rng.randint(1, 80)), scored=rng.random() < 0.2))
    order, running = list(waiting), list[_Row]()
    first_let_in: list[_Row] = []
    for _ in range(20_000):
        if rng.random() < 0.02 and running:
            rng.choice(running).cancelled = True
        todo = plan(running, waiting, bounds, _PACE)
        rows = [*running, *(waiting[i] for i in todo.admitted)]
        assert all(row.cancelled for row in rows) or todo.work
        first_let_in += [row for row in rows[len(running) :] if row not in first_let_in]
        evicted = [running[i] for i in todo.evicted]
        out = {*todo.evicted, *todo.dropped_running}
        waiting = [*evicted, *(r for i, r in enumerate(waiting) if i not in {*todo.admitted, *todo.dropped_waiting})]
        for i, n in todo.work:
            assert 0 < n <= rows[i].length - rows[i].computed
            rows[i].computed += n
            if rows[i].computed == rows[i].length:
                rows[i].length += 1
        for row in evicted:
            row.computed = 0
        running = [row for i, row in enumerate(rows) if i not in out]
        assert len(running) <= bounds.rows
        assert len(running) * max((row.computed for row in running), default=0) <= bounds.tokens
        running = [row for row in running if row.length <= row.final]
        if not running and not waiting:
            break
    else:
        pytest.fail("somebody never came to an end")
    assert first_let_in == [row for row in order if row in first_let_in]


def test_the_pace_is_that_of_as_many_who_run() -> None:
    paces = Paces()
    assert paces.now(4) == Pace()
    for _ in range(60):
        paces.took(0.02, 1, 0)
        paces.took(0.08, 16, 0)
        paces.took(0.18, 16, 100)
    assert paces.now(1).step_s == pytest.approx(0.02)
    assert paces.now(6).step_s == pytest.approx(0.04), "between them: on a line"
    assert paces.now(20).step_s == pytest.approx(0.084), "more than ever: as newcomers' tokens"
    assert paces.now(16).tokens_per_s == pytest.approx(1000)
    paces.took(1.0, 16, LEAST_CHUNK - 1)  # too few to tell anything
    assert paces.now(16).tokens_per_s == pytest.approx(1000)
