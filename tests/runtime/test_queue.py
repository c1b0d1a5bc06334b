"""The policy is a pure function: plain data in, plain data out."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserve.backends.base import Layout, Limits
from modelserve.runtime.queue import Answered, next_batch, pause_s


@dataclass
class Text:
    length: int
    cancelled: bool = False


def limits(layout: Layout, budget: int = 100, most: int | None = None) -> Limits:
    return Limits(layout=layout, max_batch_tokens=budget, streams=1, max_batch_size=most)


def cost(lengths: list[int], layout: Layout) -> int:
    return len(lengths) * max(lengths) if layout == "padded" else sum(lengths)


def test_a_lone_text_goes_at_once() -> None:
    assert next_batch([Text(7)], limits("packed")) == ([0], [])


def test_nobody_waits() -> None:
    assert next_batch([], limits("packed")) == ([], [])


def test_cancelled_texts_are_dropped_and_never_computed() -> None:
    waiting = [Text(5, cancelled=True), Text(6), Text(7, cancelled=True)]
    assert next_batch(waiting, limits("packed")) == ([1], [0, 2])


def test_the_oldest_goes_with_its_neighbours_in_length() -> None:
    waiting = [Text(50), Text(3), Text(48), Text(2)]
    assert next_batch(waiting, limits("packed"))[0] == [0, 2]


def test_padding_counts_in_the_padded_layout() -> None:
    waiting = [Text(40), Text(40), Text(10)]
    assert next_batch(waiting, limits("padded"))[0] == [0, 1]
    assert next_batch(waiting, limits("packed"))[0] == [0, 1, 2]


def test_a_pass_is_not_mostly_padding() -> None:
    waiting = [Text(n) for n in (8, 240, 12, 250, 10, 9, 230)]
    assert next_batch(waiting, limits("padded", 10_000))[0] == [0, 2, 4, 5]
    assert next_batch([Text(240), Text(12), Text(10)], limits("padded", 10_000))[0] == [0]
    assert next_batch([Text(100), Text(2)], limits("padded", 10_000))[0] == [0, 1], "less than a pass"


def test_equal_takes_one_length_only() -> None:
    assert next_batch([Text(5), Text(6), Text(5)], limits("equal"))[0] == [0, 2]


def test_single_takes_one_text() -> None:
    assert next_batch([Text(5), Text(5)], limits("single"))[0] == [0]


def test_a_text_over_the_budget_goes_alone() -> None:
    assert next_batch([Text(500), Text(3)], limits("packed"))[0] == [0]


@pytest.mark.parametrize("layout", ["packed", "padded", "equal"])
def test_no_more_texts_than_the_backend_takes(layout: Layout) -> None:
    assert len(next_batch([Text(5)] * 9, limits(layout, 1000, most=4))[0]) == 4
    assert len(next_batch([Text(5)] * 3, limits(layout, 1000, most=4))[0]) == 3


def test_free_streams_share_what_waits() -> None:
    waiting = [Text(100) for _ in range(10)]
    assert len(next_batch(waiting, limits("packed", 10_000), free_streams=2)[0]) == 5


def test_what_is_little_is_not_divided_and_the_rest_evenly() -> None:
    assert len(next_batch([Text(16)] * 8, limits("packed", 10_000), free_streams=2)[0]) == 8
    assert len(next_batch([Text(16)] * 18, limits("packed", 10_000), free_streams=2)[0]) == 9
    assert len(next_batch([Text(16)] * 18, limits("packed", 10_000), free_streams=4)[0]) == 9, "two are enough"
    assert len(next_batch([Text(100), Text(2)], limits("padded", 10_000), free_streams=2)[0]) == 2


@pytest.mark.parametrize("layout", ["packed", "padded", "equal", "single"])
@given(
    texts=st.lists(st.tuples(st.integers(1, 300), st.booleans()), max_size=40),
    budget=st.integers(1, 500),
    streams=st.integers(1, 4),
    most=st.none() | st.integers(1, 8),
)
def test_every_queue_is_emptied_within_the_budget(
    layout: Layout, texts: list[tuple[int, bool]], budget: int, streams: int, most: int | None
) -> None:
    waiting = [Text(length, cancelled) for length, cancelled in texts]
    while waiting:
        chosen, dropped = next_batch(waiting, limits(layout, budget, most), streams)
        alive = [i for i, text in enumerate(waiting) if not text.cancelled]
        assert not set(chosen) & set(dropped)
        assert dropped == [i for i, text in enumerate(waiting) if text.cancelled]
        if alive:
            assert alive[0] in chosen, "the oldest text starves"
            lengths = [waiting[i].length for i in chosen]
            assert len(chosen) == 1 or cost(lengths, layout) <= budget
            assert len(chosen) <= (most or len(chosen))
        waiting = [text for i, text in enumerate(waiting) if i not in {*chosen, *dropped}]


NOBODY = Answered(0, 0.0, 0.0)


@dataclass
class Arrived(Text):
    put_at: float = 10.0
    reply: object = field(default_factory=object)


def test_a_full_batch_waits_for_nobody() -> None:
    waiting = [Arrived(5), Arrived(5)]
    answered = Answered(callers=4, at=9.999, lasted_s=1.0)
    assert pause_s(waiting, [], answered, now=10.0, limits=limits("padded", 1000, most=4)) > 0
    assert pause_s(waiting, [], answered, now=10.0, limits=limits("padded", 1000, most=2)) == 0


def test_a_caller_alone_never_waits() -> None:
    assert pause_s([Arrived(16)], [], NOBODY, now=10.0, limits=limits("packed", 512)) == 0
    just_answered = Answered(callers=1, at=9.999, lasted_s=0.01)
    assert pause_s([Arrived(16)], [], just_answered, now=10.0, limits=limits("packed", 512)) == 0, (
        "it is the one who was answered"
    )


def test_little_waits_for_those_who_were_just_answered() -> None:
    last = Answered(callers=8, at=9.999, lasted_s=0.04)
    assert pause_s([Arrived(16)], [], last, now=10.0, limits=limits("packed", 512)) == pytest.approx(0.009)
    all_of_them = [Arrived(16) for _ in range(8)]
    assert pause_s(all_of_them, [], last, now=10.0, limits=limits("packed", 512)) == 0, "all are back"
    assert pause_s([Arrived(16)], [], last, now=10.1, limits=limits("packed", 512)) == 0, "they do not come"
    assert pause_s(
        [Arrived(16)], [], last._replace(lasted_s=9), now=10.0, limits=limits("packed", 512)
    ) == pytest.approx(0.019), "bounded"


def test_a_caller_alone_with_many_texts_never_waits_either() -> None:
    it = object()
    rest, next_request = Arrived(16, put_at=9.9, reply=it), Arrived(16, reply=object())
    half_done = Answered(callers=0, at=9.999, lasted_s=0.04)
    assert pause_s([rest] * 8, [], half_done, now=10.0, limits=limits("packed", 512)) == 0, "it is not answered yet"
    answered = Answered(callers=1, at=9.999, lasted_s=0.04)
    assert pause_s([next_request], [], answered, now=10.0, limits=limits("packed", 512)) == 0, "it is back, with less"
    last = Answered(callers=2, at=9.999, lasted_s=0.04)
    many = [Arrived(16, reply=it) for _ in range(8)]
    assert pause_s(many, [], last, now=10.0, limits=limits("packed", 512)) > 0, "the other one is on its way"


def test_little_waits_for_a_small_pass_to_end() -> None:
    assert pause_s([Arrived(64)], [64], NOBODY, now=10.0, limits=limits("packed", 512)) == pytest.approx(0.05)
    assert pause_s([Arrived(64)], [64], NOBODY, now=10.06, limits=limits("packed", 512)) == 0
    assert pause_s([Arrived(128)], [64], NOBODY, now=10.0, limits=limits("packed", 512)) == 0, "enough by itself"
    assert pause_s([Arrived(16)], [512], NOBODY, now=10.0, limits=limits("packed", 512)) == 0, "a large one takes long"
    assert pause_s([Arrived(16)], [64, 512], NOBODY, now=10.0, limits=limits("packed", 512)) == 0


def test_a_full_pass_never_waits() -> None:
    last = Answered(9, 10.0, 1.0)
    assert pause_s([Arrived(100)] * 6, [64], last, now=10.0, limits=limits("packed", 512)) == 0
    assert pause_s([Arrived(100)] * 4, [], last, now=10.0, limits=limits("packed", 512)) == pytest.approx(0.02)
    assert pause_s([Arrived(100)] * 4, [64], NOBODY, now=10.0, limits=limits("packed", 512)) == 0


def test_a_large_budget_is_not_waited_for() -> None:
    last = Answered(9, 10.0, 1.0)
    assert pause_s([Arrived(100)] * 6, [], last, now=10.0, limits=limits("packed", 16384)) == 0


def test_where_texts_share_no_pass_nobody_waits_for_company() -> None:
    last = Answered(9, 10.0, 1.0)
    assert pause_s([Arrived(16)], [], last, now=10.0, limits=limits("single")) == 0
