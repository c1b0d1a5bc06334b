"""`modelserve export` interrupted, failing or replacing a model: nothing half, and the old one until there is a new.

What is refused is in test_export.py.
"""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import pytest

from modelserve.errors import LoadError
from modelserve.runtime import export_onnx_graph
from tests.commands.conftest import Typed, shell
from tests.models import tiny

pytestmark = pytest.mark.slow


def words(repository: Path, *more: str) -> list[str]:
    return ["export", "--format=onnx", f"--model_dir={tiny('bert')}", f"--output={repository}", *more]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_one_leaves_no_model(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: signal.Signals
) -> None:
    """Ended in the midst of its files; what a killed one leaves is beside the repository, and the next clears it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    place, repository = tmp_path / "place", tmp_path / "place" / "repo"
    repository.mkdir(parents=True)
    process = shell(*words(repository))
    try:
        deadline = time.monotonic() + 90
        while not (begun := list(place.glob(".building-*/1"))) and time.monotonic() < deadline:
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)
        assert begun
        process.send_signal(how)
        assert process.wait(60) != 0
    finally:
        process.kill()
        process.communicate()
    assert list(repository.iterdir()) == []
    assert (list(place.glob(".building-*")) == []) is (how != signal.SIGKILL)

    def fails(*_: object) -> None:
        raise LoadError("the exporter is ill")

    monkeypatch.setattr(export_onnx_graph, "write", fails)
    assert typed(*words(repository)).status == 1
    assert [path.name for path in place.iterdir()] == ["repo"]
    assert list(repository.iterdir()) == []


def test_an_old_one_is_there_until_it_is_replaced(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    repository = tmp_path / "repo"
    old = repository / "model"
    old.mkdir(parents=True)
    (old / "config.pbtxt").write_text("old")

    def fails(*_: object) -> None:
        raise LoadError("the exporter is ill")

    with monkeypatch.context() as patch:
        patch.setattr(export_onnx_graph, "write", fails)
        done = typed(*words(repository, "--overwrite"))
    assert done.status == 1
    assert "the exporter is ill" in done.err
    assert [path.read_text() for path in old.iterdir()] == ["old"]

    done = typed(*words(repository, "--overwrite", "--json"))
    assert done.status == 0, done.err
    assert sorted(path.name for path in old.rglob("*")) == ["1", "config.pbtxt", "model.onnx", "modelserve.json"]
    assert (old / "config.pbtxt").read_text() != "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "repo"]
    said = done.json
    assert (said["directory"], said["model_name"], said["task"]) == (str(old), "model", "text_embedding")
    assert said["outputs"] == [{"name": "last_hidden_state", "datatype": "FP32", "dims": [-1, 32]}]
    assert [one["dims"] for one in said["inputs"]] == [[-1]] * 3
    assert 0 <= said["deviation"] <= said["tolerance"]
    record = json.loads((old / "modelserve.json").read_text())
    assert {name: said[name] for name in record if name != "format"} | {"format": 1} == record
