from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelserve.backends.cores import cores


@pytest.mark.parametrize(
    ("limit", "most"), [("max 100000", 10**6), ("100000 100000", 1), ("50000 100000", 1), ("nonsense", 10**6)]
)
def test_the_containers_limit_counts(tmp_path: Path, limit: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(limit)
    assert cores(tmp_path / "cpu.max") == min(most, len(os.sched_getaffinity(0)))


def test_no_limit_file(tmp_path: Path) -> None:
    assert cores(tmp_path / "none") == len(os.sched_getaffinity(0))
