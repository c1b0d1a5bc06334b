"""Texts of megabytes: cut as if they had been read at once, within memory that does not grow with them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

from modelserve.runtime import excerpt
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import Params, TextPair
from tests.fuzz.memory import MIB, forget_peak, peak, resident
from tests.models import ARCHITECTURES, MAX_LENGTH, TEXTS, tiny
from tests.process import Server, serve

WORDS = TEXTS.split()


def words(count: int, seed: int) -> str:
    chance = random.Random(seed)
    return "".join(chance.choice(WORDS) + chance.choice([" ", " ", " ", "  ", "\n", ",\t"]) for _ in range(count))


LONG = {
    "words": words(3000, 1),
    "blanks": " " * 5000 + words(500, 2) + "\n" * 5000,
    "few tokens": " " * 10_000 + "the end",
    "a word of several pieces": words(200, 3) + "x" * 3000 + words(200, 4),
}


@pytest.mark.parametrize("truncation", [None, "left"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_in_pieces_is_as_at_once(architecture: str, truncation: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = Tokenizer(tiny(architecture), max_length=MAX_LENGTH)
    instances = [*LONG.values(), "short", "", TextPair(LONG["words"], "a pair"), TextPair("b", LONG["words"])]
    params = Params(truncation=truncation)
    at_once = tokenizer(instances, params, offsets=True)
    for module in ("modelserve.runtime.excerpt", "modelserve.runtime.tokenizer"):
        monkeypatch.setattr(f"{module}.PIECE", 1500)
    pieces = tokenizer(instances, params, offsets=True)
    for instance, whole, pieced in zip(instances, at_once, pieces, strict=True):
        assert pieced.ids == whole.ids
        assert pieced.type_ids == whole.type_ids
        assert abs(pieced.dropped - whole.dropped) <= (5 if instance == LONG["a word of several pieces"] else 0)
        if isinstance(instance, str):
            assert pieced.offsets == whole.offsets


def test_a_text_without_a_blank_is_cut_anywhere() -> None:
    text = "a" * (2 * excerpt.PIECE + 5)
    assert excerpt.excerpt(text, len, 100, from_end=False) == (text[: excerpt.PIECE], excerpt.PIECE + 5)
    assert excerpt.excerpt(text, len, 100, from_end=True) == (text[: excerpt.PIECE + 5], excerpt.PIECE)
    assert excerpt.excerpt(text, lambda piece: 1, 2, from_end=False) == (text, 0)


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], [(0, 0)]),
        ([5], [(0, 1)]),
        ([excerpt.PIECE * 3], [(0, 1)]),
        ([5, excerpt.PIECE, 5, 5], [(0, 1), (1, 2), (2, 4)]),
        ([excerpt.PIECE // 2] * 5, [(0, 2), (2, 4), (4, 5)]),
    ],
)
def test_texts_are_grouped_into_pieces(sizes: list[int], expected: list[tuple[int, int]]) -> None:
    assert list(excerpt.groups(sizes)) == expected


@pytest.fixture(scope="module")
def roberta() -> Iterator[Server]:
    with serve("--model_dir", tiny("roberta"), "--model_name=m") as roberta:
        yield roberta


@pytest.mark.slow
@pytest.mark.parametrize(
    "instances",
    [["the cat sat on the mat, " * 500_000], ["a" * 8_000_000], ["the cat " * 375] * 4000],
    ids=["one text", "one word", "many texts"],
)
def test_memory_does_not_grow_with_the_text(roberta: Server, instances: list[str]) -> None:
    forget_peak(roberta.process.pid)
    before = resident(roberta.process.pid)
    answer = roberta.post("/v1/models/m:predict", {"instances": instances})
    assert answer.status_code == 200, answer.text[:300]
    assert int(answer.headers["x-modelserve-tokens-dropped"]) > 1_000_000
    assert peak(roberta.process.pid) - before < 600 * MIB
