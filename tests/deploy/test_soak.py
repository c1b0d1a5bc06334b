"""Some kills at random moments; `python -m tests.deploy.soak 200` has more."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.soak import soak


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_kill_at_random_moments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))
    monkeypatch.delenv("MODELSERVE_STORE_URL", raising=False)
    assert soak(20, seed=7).total() >= 20
