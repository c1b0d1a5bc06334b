"""`modelserve export`: what is refused, each in one sentence, before anything is written.

What it writes is in tests/runtime/test_export_onnx.py.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

import pytest

from tests.commands.conftest import Typed
from tests.generative import tiny_generative
from tests.models import tiny


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--model_dir", "m", "--output", "o"], "Missing option '--format'"),
        (["--format", "onnx", "--model_dir", "m"], "Missing option '--output'"),
        (["--format", "gguf", "--model_dir", "m", "--output", "o"], "'gguf' is not"),
        (["--format", "onnx", "--output", "o"], "give --model_id or --model_dir"),
        (["--format", "onnx", "--output", "o", "--model_dir", "m", "--model_revision", "r"], "is for --model_id"),
        (["--format", "onnx", "--output", "o", "--model_dir", "m", "--max_batch_size", "0"], "0 is not in the range"),
        (["--format", "onnx", "--output", "o", "--model_dir", "m", "--model_name", "a/b"], "--model_name a/b cannot"),
    ],
)
def test_a_wrong_command_line(typed: Typed, words: list[str], said: str) -> None:
    done = typed("export", *words)
    assert done.status == 2
    assert said in done.err


def test_models_and_places_that_are_refused(typed: Typed, tmp_path: Path) -> None:
    repository, file = tmp_path / "repo", tmp_path / "file"
    file.touch()
    (repository / "thesis").mkdir(parents=True)
    (repository / "old").mkdir()
    (repository / "old" / "config.pbtxt").touch()
    words = ["export", "--format=onnx", f"--model_dir={tiny('bert')}"]
    for given, status, said in (
        ([f"--output={file}"], 2, "is a file; give the directory of a Triton model repository"),
        ([f"--output={repository}", "--model_name=thesis", "--overwrite"], 2, "is no model of Triton"),
        ([f"--output={repository}", "--model_name=old"], 2, "is there already; give --overwrite to replace it"),
        ([f"--output={repository}", "--task=fill_mask"], 1, "the task fill_mask cannot be served"),
        ([f"--output={repository}", f"--model_dir={tiny_generative('llama')}"], 1, "only encoders are exported"),
    ):
        done = typed(*words, *given)
        assert (done.status, said in done.err) == (status, True), done.err
        assert done.err.count("modelserve: error:") == 1
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["config.pbtxt", "file", "old", "repo", "thesis"]


def test_the_extra_is_not_installed(typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = util.find_spec
    monkeypatch.setattr(
        "modelserve.runtime.export_onnx.find_spec", lambda name: None if name == "onnxscript" else find(name)
    )
    done = typed("export", "--format=onnx", f"--model_dir={tiny('bert')}", f"--output={tmp_path / 'repo'}")
    assert done.status == 1
    assert "onnxscript is not installed" in done.err
    assert "pip install 'modelserve[onnx]'" in done.err
