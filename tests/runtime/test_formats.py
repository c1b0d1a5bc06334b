"""Which format a path is, and what is told when it is none; in process, but for what a whole start says."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path
from typing import Any

import pytest

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.flags import from_keywords
from modelserve.runtime.formats import estimator_file, mlflow_directory, model_format
from modelserve.runtime.load import load
from tests.estimators import estimator, mlflow_model
from tests.models import tiny


def refused(**flags: Any) -> str:
    with pytest.raises(LoadError) as caught:
        load(from_keywords(**flags), lambda stage, fraction: None)
    return caught.value.message


def touched(directory: Path, *names: str) -> Path:
    directory.mkdir(exist_ok=True)
    for name in names:
        (directory / name).touch()
    return directory


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["model.joblib"], "sklearn"),
        (["model.pkl", "requirements.txt"], "sklearn"),
        (["model.pickle"], "sklearn"),
        (["model.skops"], "sklearn"),
        (["a.pkl", "b.pkl"], "sklearn"),
        (["MLmodel", "model.pkl"], "mlflow"),
        (["MLmodel", "config.json"], "mlflow"),
        (["config.json", "model.safetensors", "optimizer.pkl"], "huggingface"),
        (["model.onnx"], "huggingface"),
        ([], "huggingface"),
    ],
    ids=str,
)
def test_the_files_say_the_format(tmp_path: Path, names: list[str], found: str) -> None:
    directory = touched(tmp_path / "model", *names)
    assert model_format(Config(), directory) == found
    for given in ("huggingface", "sklearn", "mlflow"):
        assert model_format(Config(model_format=given), directory) == given


def test_a_file_says_it_too(tmp_path: Path) -> None:
    touched(tmp_path, "a.joblib", "MLmodel", "a.onnx")
    assert model_format(Config(), tmp_path / "a.joblib") == "sklearn"
    assert model_format(Config(), tmp_path / "MLmodel") == "mlflow"
    assert model_format(Config(), tmp_path / "a.onnx") == "huggingface"
    assert model_format(Config(), tmp_path / "nothing") == "huggingface"
    assert mlflow_directory(tmp_path / "MLmodel") == tmp_path
    assert estimator_file(tmp_path / "a.onnx") == tmp_path / "a.onnx", "--model_format said so"


def test_a_model_id_is_hugging_faces() -> None:
    assert model_format(Config(model_id="a/b"), None) == "huggingface"
    assert refused(model_id="a/b", model_format="sklearn") == (
        "--model_id is a Hugging Face model; --model_format sklearn is read from --model_dir"
    )


def test_what_is_missing(tmp_path: Path) -> None:
    several = touched(tmp_path / "several", "a.pkl", "b.joblib")
    assert refused(model_dir=several) == (
        f"{several} (--model_dir) must hold one file with .joblib, .pkl, .pickle, .skops, and it holds 2 of them: "
        "a.pkl, b.joblib; give the path of one"
    )
    other = touched(tmp_path / "other", "a.onnx")
    assert refused(model_dir=other, model_format="sklearn") == (
        f"{other} (--model_dir) must hold one file with .joblib, .pkl, .pickle, .skops, and it holds a.onnx"
    )
    assert refused(model_dir=other, model_format="mlflow") == (
        f"there is no MLmodel in {other} (--model_dir), which holds a.onnx"
    )
    assert refused(model_dir=other / "a.onnx", model_format="mlflow") == (
        f"there is no MLmodel in {other}/a.onnx (--model_dir), which is a file"
    )
    for name in ("sklearn", "mlflow"):
        assert refused(model_dir=tmp_path / "none", model_format=name) == f"there is no {tmp_path}/none (--model_dir)"
    assert refused(model_dir=tmp_path / "none").startswith(f"there is no directory {tmp_path}/none")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"task": "fill_mask"}, "--task fill_mask is for Hugging Face models, and .* is one of sklearn; leave it away"),
        ({"dtype": "float16"}, "--dtype float16 is for Hugging Face models, and .* is one of sklearn; leave it away"),
        ({"backend": "huggingface"}, "--backend huggingface is for Hugging Face models, and .* is one of sklearn"),
        ({"device": "cuda"}, "--device cuda: .* is a model of sklearn, which runs on the CPU"),
        ({"allow_pickle": False}, "classifier.joblib is a pickle"),
    ],
)
def test_flags_that_contradict_the_files(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(LoadError, match=message):
        load(from_keywords(**{"model_dir": estimator("classifier"), "allow_pickle": True, **flags}), lambda *_: None)


def test_a_hugging_face_directory_is_no_estimator() -> None:
    assert "must hold one file with .joblib" in refused(model_dir=tiny("bert"), model_format="sklearn")


@pytest.mark.parametrize("name", ["sklearn", "mlflow"])
def test_from_an_archive(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    folder = tmp_path / "folder"
    if name == "mlflow":
        shutil.copytree(mlflow_model("mlflow_array"), folder)
    else:
        folder.mkdir()
        shutil.copy(estimator("classifier"), folder)
    archive = tmp_path / "model.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for file in folder.rglob("*"):
            packed.write(file, file.relative_to(folder))
    loaded = load(from_keywords(model_dir=archive, allow_pickle=True), lambda stage, fraction: None)
    assert loaded.backend_name == name
    assert loaded.modality.takes == "rows"
