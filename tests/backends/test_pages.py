"""Blocks of a paged memory: whose they are, and that none is two sequences'."""

import random

import pytest

from modelserve.backends.pages import BLOCK, Book, pages_of


def test_a_sequence_has_as_many_as_its_tokens_fill() -> None:
    book = Book(4)
    slot = book.take()
    assert book.fit(slot, 1) == [0]
    assert book.fit(slot, BLOCK) == [0]
    assert book.fit(slot, BLOCK + 1) == [0, 1]
    assert book.free_blocks == 2
    book.free(slot)
    assert book.free_blocks == 4
    assert pages_of(slot).blocks == []


def test_the_lowest_free_ones_first() -> None:
    book = Book(6)
    one, other = book.take(), book.take()
    book.fit(one, 2 * BLOCK)
    book.fit(other, 2 * BLOCK)
    book.free(one)
    assert book.fit(other, 5 * BLOCK) == [2, 3, 0, 1, 4]


def test_none_is_twos() -> None:
    rng, book, held = random.Random(0), Book(64), []
    for _ in range(2000):
        if held and (rng.random() < 0.4 or book.free_blocks < 8):
            book.free(held.pop(rng.randrange(len(held))))
        else:
            held.append(book.take())
            book.fit(held[-1], rng.randrange(1, 8 * BLOCK))
        used = [block for slot in held for block in pages_of(slot).blocks]
        assert len(used) == len(set(used)) == 64 - book.free_blocks


def test_over_the_budget_and_cleared() -> None:
    told: list[bool] = []
    book = Book(2, lambda: told.append(True))
    with pytest.raises(ValueError, match="budget of 2 blocks"):
        book.fit(book.take(), 2 * BLOCK + 1)
    book.clear()
    assert (book.free_blocks, told) == (2, [True])
