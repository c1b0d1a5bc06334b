"""How many threads an operation gets: one, but for what is marked as large; the thread's own number is kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch

from modelserve.backends import crew


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_small_operations_have_one_thread_and_large_ones_all() -> None:
    seen = []
    with crew.small_ones_alone():
        seen.append(torch.get_num_threads())
        with crew.all_of_it():
            seen.append(torch.get_num_threads())
        seen.append(torch.get_num_threads())
    assert seen == [1, 4, 1]
    assert torch.get_num_threads() == 4


def test_an_error_inside_leaves_the_threads_as_they_were() -> None:
    with pytest.raises(ValueError), crew.small_ones_alone(), crew.all_of_it():
        raise ValueError
    assert torch.get_num_threads() == 4


def test_outside_a_step_nothing_is_divided_nor_in_another_thread() -> None:
    with crew.all_of_it():
        assert torch.get_num_threads() == 4
    found: list[int] = []

    def other() -> None:
        torch.set_num_threads(3)
        with crew.all_of_it():
            found.append(torch.get_num_threads())

    with crew.small_ones_alone():
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert found == [3]
