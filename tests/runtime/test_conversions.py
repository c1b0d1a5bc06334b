"""Which directory is a conversion, and which conversion is whose, without openvino."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import msgspec
import pytest

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.flags import from_keywords
from modelserve.runtime import conversions, engine_openvino
from modelserve.runtime.conversions import Deviation, Record, find, identity, place, read
from modelserve.runtime.engine_openvino import build, converted
from modelserve.runtime.engines import choose
from modelserve.runtime.files import resolve
from modelserve.types import ModelInfo


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return conversions.cache()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "model"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


def record(model: Path, weights: str = "float32", passed: bool = True) -> Record:
    near = Deviation(tokens=100, equal=0.97, near_ties=0, mean=0.01, largest=0.2)
    versions = {"checked with openvino": metadata.version("openvino")}
    return Record(
        "here", identity(model), weights, "e", versions, 4, {"float32": near}, passed and weights == "float32"
    )


def write(directory: Path, said: Record) -> Path:
    directory.mkdir(parents=True)
    (directory / "openvino_model.xml").write_text("<net/>")
    (directory / "config.json").write_text('{"model_type": "llama", "architectures": ["LlamaForCausalLM"]}')
    (directory / "modelserve.json").write_bytes(msgspec.json.encode(said))
    return directory


def info(path: Path, **config: object) -> ModelInfo:
    return ModelInfo(path, config, {}, 2, None, 64, 256)


def test_the_cache_has_it_as_long_as_the_weights_are_these(model: Path) -> None:
    assert find(model) is None
    made = write(place(model, "float32", "e"), record(model))
    assert find(model) == converted(Config(), info(model)) == made
    os.utime(model / "model.safetensors", ns=(1, 1))
    assert find(model) is None


@pytest.mark.parametrize("change", ["config.json", "model.safetensors"])
def test_other_weights_or_another_configuration_are_another_model(model: Path, change: str) -> None:
    before = identity(model)
    (model / "tokenizer.json").write_text("{}")
    assert identity(model) == before
    (model / change).write_bytes(b"something longer than before, whatever it was: " * 3)
    assert identity(model) != before


def test_auto_has_none_where_openvino_is_missing(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """But for a directory that nothing else serves: its load says what to install."""
    asked = Config()
    write(place(model, "float32", "e"), record(model))
    own = write(tmp_path / "made", record(model))
    monkeypatch.setattr("modelserve.runtime.engine_openvino.find_spec", lambda name: None)
    assert converted(asked, info(model)) is None
    assert choose(asked, info(own), "text_generation")[0] == "openvino"


def test_auto_takes_none_for_a_type_that_openvino_does_not_compute_in(model: Path) -> None:
    made = write(place(model, "float32", "e"), record(model))
    assert converted(Config(dtype="bfloat16"), info(model)) == made
    assert converted(Config(dtype="float16"), info(model)) is None


def test_auto_takes_none_that_was_checked_with_another_openvino(
    model: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    made = write(place(model, "float32", "e"), record(model))
    monkeypatch.setattr(engine_openvino.metadata, "version", lambda name: "2031.1.0")
    assert find(model) == made
    assert converted(Config(), info(model)) is None
    assert "and here is 2031.1.0; convert the model again" in caplog.text


def test_one_that_is_being_made_is_none(model: Path) -> None:
    write(place(model, "float32", "e").with_name(".building-float32-e"), record(model))
    assert find(model) is None


def test_a_snapshot_of_the_hub_is_known_by_its_blobs(tmp_path: Path) -> None:
    found = []
    for name in ("one", "other"):
        blobs, snapshot = tmp_path / name / "blobs", tmp_path / name / "snapshots" / "c"
        blobs.mkdir(parents=True)
        snapshot.mkdir(parents=True)
        for file, blob in (("config.json", "a1"), ("model.safetensors", "b2")):
            (blobs / blob).write_text(file)
            (snapshot / file).symlink_to(blobs / blob)
        found.append(identity(snapshot))
    assert found[0] == found[1]


def test_float32_before_int8_and_only_when_it_passed(model: Path) -> None:
    small = write(place(model, "int8", "e"), record(model, "int8"))
    assert find(model) is converted(Config(), info(model)) is None
    assert find(model, ("float32", "int8")) == small
    failed = write(place(model, "float32", "old"), record(model, passed=False))
    assert find(model, ("float32", "int8")) == small
    shutil.rmtree(failed)
    made = write(place(model, "float32", "e"), record(model))
    assert find(model, ("float32", "int8")) == made


def test_the_newest_of_several(model: Path) -> None:
    old, new = (write(place(model, "float32", name), record(model)) for name in ("a", "b"))
    os.utime(old, (1, 1))
    assert find(model) == new
    os.utime(new, (0, 0))
    assert find(model) == old


@pytest.mark.parametrize("left_out", ["openvino_model.xml", "modelserve.json"])
def test_half_a_conversion_is_none(model: Path, left_out: str) -> None:
    made = write(place(model, "float32", "e"), record(model))
    (made / left_out).unlink()
    assert read(made) is None
    assert find(model) is None


def test_a_record_of_another_version_is_none(model: Path) -> None:
    made = write(place(model, "float32", "e"), record(model))
    (made / "modelserve.json").write_text('{"format": 2}')
    assert read(made) is None


def test_a_conversion_is_its_own(model: Path, tmp_path: Path) -> None:
    made = write(tmp_path / "made", record(model, "int8"))
    assert find(made) == made
    assert choose(Config(device="cuda"), info(made), "text_generation")[0] == "openvino"
    files = resolve(from_keywords(model_dir=made), lambda fraction: None)
    assert (files.model, files.weights, files.shapes) == (made.resolve(), (), None)
    with pytest.raises(LoadError, match="converted to openvino; give --backend openvino"):
        resolve(from_keywords(model_dir=made, backend="huggingface"), lambda fraction: None)


@pytest.mark.parametrize(
    ("flags", "task", "config", "said"),
    [
        ({}, "text_generation", {}, "`modelserve convert --model_dir /m --to openvino`"),
        ({}, "text2text_generation", {"is_encoder_decoder": True}, "decoder-only models; give --backend huggingface"),
        ({"device": "cuda"}, "text_generation", {}, "--device cuda: the openvino backend computes on the CPU"),
    ],
)
def test_what_it_does_not_serve(
    model: Path, flags: dict[str, str], task: str, config: dict[str, object], said: str
) -> None:
    stranger: Callable[..., None] = lambda *args: None  # noqa: E731
    with pytest.raises(LoadError) as refused:
        build(from_keywords(model_dir="/m", **flags), info(model, **config), task, None, stranger)  # type: ignore[arg-type]
    assert said in refused.value.message


def test_pins_are_exact() -> None:
    lines = [line for line in conversions.pins().splitlines() if not line.startswith("#")]
    assert all(line.count("==") == 1 for line in lines)
    assert {"torch", "transformers", "optimum-intel", "openvino", "nncf"} <= {line.split("==")[0] for line in lines}
