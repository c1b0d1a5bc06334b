"""Callers who load and unload the model all at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.models import tiny
from tests.process import serve

STREAMS = 4
"""Threads of a model in memory that run forward passes."""


@pytest.mark.slow
def test_one_change_at_a_time_and_nothing_stays_behind() -> None:
    args = ("--model_dir", tiny("bert"), "--model_name=m", "--enable_model_control", f"--threads={STREAMS}")
    with serve(*args) as server, ThreadPoolExecutor(8) as callers:

        def change(verb: str) -> int:
            return server.post(f"/v2/repository/models/m/{verb}").status_code

        def threads() -> int:
            return len(list(Path(f"/proc/{server.process.pid}/task").iterdir()))

        assert change("unload") == 200
        before = threads()
        for _ in range(3):
            assert list(callers.map(change, ["load"] * 8)) == [200] * 8
            # A model that another caller has unloaded just before is not there any more.
            assert set(callers.map(change, ["unload", "load"] * 8)) <= {200, 404}
        assert change("load") == 200
        assert server.post("/v1/models/m:predict", {"instances": ["a"]}).status_code == 200
        assert threads() < before + 4 * STREAMS
        assert "Traceback" not in server.log
