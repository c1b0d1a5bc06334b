"""`modelserve convert` with an exporter that is a script of ours: what is refused, and that nothing half is left.

The real exporter is in tests/conformance/test_openvino_export.py.
"""

from __future__ import annotations

import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from modelserve.runtime import conversions
from tests.commands.conftest import Typed, shell
from tests.converted import converted
from tests.generative import tiny_generative
from tests.models import tiny

VERSIONS = '{"optimum-intel": "2", "transformers": "5", "torch": "2", "openvino": "2026", "nncf": "3"}'


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return conversions.cache()


def exporter(directory: Path, does: str) -> Path:
    """A program in the place of the environment's python: told to export, it does this to "$4", its output."""
    program = directory / "python"
    program.write_text(f"#!/bin/sh\nif [ \"$2\" = -c ]; then echo '{VERSIONS}'; exit; fi\n{does}\n")
    program.chmod(0o755)
    return program


def left(directory: Path) -> list[str]:
    """Anything but locks."""
    return sorted(path.name for path in directory.rglob("*") if path.suffix != ".lock" and path.is_file())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "openvino"], "give --model_id or --model_dir"),
        (["--to", "openvino", "--model_id", "a/b", "--model_dir", "m"], "give --model_id or --model_dir"),
        (["--to", "openvino", "--model_dir", "m", "--model_revision", "r"], "--model_revision is for --model_id"),
        (["--model_dir", "m"], "Missing option '--to'"),
        (["--to", "onnx", "--model_dir", "m"], "'onnx' is not"),
        (["--to", "openvino", "--model_dir", "m", "--weights", "int3"], "'int3' is not one of"),
    ],
)
def test_a_wrong_command_line(typed: Typed, words: list[str], said: str) -> None:
    done = typed("convert", *words)
    assert done.status == 2
    assert said in done.err


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (lambda: tiny("bert", "fill_mask"), "BertForMaskedLM is made for fill_mask; only decoder-only models"),
        (lambda: tiny_generative("t5"), "T5ForConditionalGeneration is made for text2text_generation"),
        (lambda: Path("/nowhere"), "there is no directory /nowhere"),
    ],
)
def test_what_is_never_converted(typed: Typed, cache: Path, model: object, said: str) -> None:
    assert callable(model)
    done = typed("convert", "--to", "openvino", "--model_dir", str(model()))
    assert done.status == 1
    assert said in done.err
    assert left(cache) == []


def test_a_python_that_is_none_or_cannot_export(typed: Typed, tmp_path: Path) -> None:
    words = ["convert", "--to", "openvino", "--model_dir", str(tiny_generative("llama"))]
    done = typed(*words, "--python", "/no/python")
    assert (done.status, "--python /no/python is no program" in done.err) == (1, True)
    done = typed(*words, "--python", sys.executable)
    assert done.status == 1
    assert "cannot export models for OpenVINO" in done.err
    assert "needs optimum-intel" in done.err


@pytest.mark.parametrize(
    ("does", "said"),
    [
        ("echo 'ValueError: no such architecture' >&2; exit 1", "cannot be exported to OpenVINO: no such architecture"),
        ("exit 0", "cannot be exported to OpenVINO: the exporter ended without a word"),
        pytest.param('echo half > "$4/openvino_model.xml"', "cannot be run by OpenVINO", marks=pytest.mark.slow),
    ],
)
def test_an_export_that_fails_leaves_nothing(typed: Typed, tmp_path: Path, cache: Path, does: str, said: str) -> None:
    model, output = tiny_generative("llama"), tmp_path / "made"
    for place in ([], ["--output", str(output)]):
        done = typed("convert", "--to=openvino", f"--model_dir={model}", f"--python={exporter(tmp_path, does)}", *place)
        assert done.status == 1
        assert said in done.err
        assert left(cache) == []
        assert {path.name for path in tmp_path.iterdir()} == {"cache", "python"}
        assert not output.exists()


def test_an_output_that_holds_something_else(typed: Typed, tmp_path: Path) -> None:
    model, program = tiny_generative("llama"), exporter(tmp_path, "exit 1")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "thesis.txt").write_text("dear")
    for output, said in (("made", "holds something else"), ("python", "is a file")):
        done = typed(
            "convert", "--to=openvino", f"--model_dir={model}", f"--python={program}", f"--output={tmp_path / output}"
        )
        assert done.status == 2
        assert said in done.err
    assert (tmp_path / "made" / "thesis.txt").read_text() == "dear"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_interrupted_one_is_begun_anew(typed: Typed, tmp_path: Path, cache: Path, how: signal.Signals) -> None:
    """What a killed one left is no conversion, and the next one clears it away."""
    began = tmp_path / "began"
    # The child ends by itself, with the file or the whole directory: of a process that was killed nobody would.
    does = f'echo x > "$4/openvino_model.xml"; touch {began}; while [ -e {began} ]; do sleep 0.05; done'
    words = ["convert", "--to=openvino", f"--model_dir={tiny_generative('llama')}"]
    process = shell(*words, f"--python={exporter(tmp_path, does)}")
    try:
        deadline = time.monotonic() + 60
        while not began.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        assert began.exists(), process.communicate()
        process.send_signal(how)
        assert process.wait(20) != 0
    finally:
        began.unlink(missing_ok=True)
        process.kill()
        process.communicate()
    assert (left(cache) == []) is (how != signal.SIGKILL)
    done = typed(*words, f"--python={exporter(tmp_path, 'exit 3')}")
    assert done.status == 1
    assert left(cache) == []


def test_pickled_weights_are_for_whoever_trusts_them(typed: Typed, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_generative("llama"), model)
    torch.save(load_file(model / "model.safetensors"), model / "pytorch_model.bin")
    (model / "model.safetensors").unlink()
    words = ["convert", "--to=openvino", f"--model_dir={model}", f"--python={exporter(tmp_path, 'exit 1')}"]
    assert "give --allow_pickle if you trust it" in typed(*words).err
    assert "cannot be exported to OpenVINO" in typed(*words, "--allow_pickle").err


def copies() -> str:
    """What an exporter does that has the right graph at hand."""
    return f'echo stage copying; cp {converted()[1]}/openvino_model.* "$4"'


@pytest.mark.slow
def test_a_conversion_that_passes_is_kept_and_made_once(typed: Typed, tmp_path: Path, cache: Path) -> None:
    model = converted()[0]
    words = ["convert", "--to=openvino", f"--model_dir={model}"]
    done = typed(*words, f"--python={exporter(tmp_path, copies())}")
    assert done.status == 0, done.err
    directory = Path(done.out.strip())
    assert directory == conversions.find(model) == next(directory.parent.iterdir())
    assert "copying\n" in done.err
    assert "float32: 100.0% of 408 tokens of 17 texts are transformers'" in done.err
    assert {"config.json", "generation_config.json", "tokenizer.json", "openvino_model.bin"} <= set(left(directory))
    record = conversions.read(directory)
    assert record is not None
    assert (record.passed, record.weights, record.prompts, record.versions["nncf"]) == (True, "float32", 17, "3")
    again = typed(*words, f"--python={exporter(tmp_path, 'exit 1')}", "--json")
    assert (again.status, again.json["directory"], again.json["new"]) == (0, str(directory), False)
    assert again.json["deviations"]["float32"]["equal"] == 1.0
    (directory / conversions.RECORD).write_text('{"format": 2}')
    assert "cannot be exported" in typed(*words, f"--python={exporter(tmp_path, 'exit 1')}").err  # it is made anew
    assert not directory.exists()


@pytest.mark.slow
def test_one_that_writes_other_texts_is_refused(typed: Typed, tmp_path: Path, cache: Path) -> None:
    """The right graph, of other weights."""
    stranger = tiny_generative("llama", seed=7, hidden_size=32, intermediate_size=48, num_attention_heads=4)
    words = ["convert", "--to=openvino", f"--model_dir={stranger}", f"--python={exporter(tmp_path, copies())}"]
    done = typed(*words)
    assert done.status == 1
    assert "LlamaForCausalLM converted to openvino writes other texts than with transformers" in done.err
    assert left(cache) == []
    small = typed(*words, "--weights=int8")
    assert small.status == 0
    assert "float32: " in small.err
    assert conversions.find(stranger) is None
