"""The paths that users type, and what the server is told for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelserve.deploy import paths
from modelserve.errors import ConfigError


@pytest.mark.parametrize(
    ("path", "scheme", "server"),
    [
        ("hf://google-bert/bert-base-uncased", "hf", {"model_id": "google-bert/bert-base-uncased"}),
        ("hf://gpt2", "hf", {"model_id": "gpt2"}),
        ("hf://gpt2:main", "hf", {"model_id": "gpt2", "model_revision": "main"}),
        ("huggingface://org/name:refs/pr/1", "hf", {"model_id": "org/name", "model_revision": "refs/pr/1"}),
        ("HF://org/name:v1.0/", "hf", {"model_id": "org/name", "model_revision": "v1.0"}),
        ("hf://org/name/", "hf", {"model_id": "org/name"}),
        ("s3://bucket/folder/", "s3", {"model_dir": "s3://bucket/folder/"}),
        ("zip+s3://bucket/model.zip", "zip+s3", {"model_dir": "s3://bucket/model.zip"}),
        ("https://host/model.zip", "https", {"model_dir": "https://host/model.zip"}),
        ("file:///models/bert", "file", {"model_dir": "file:///models/bert"}),
        ("./models/bert", "", {"model_dir": "./models/bert"}),
        ("models/bert.zip", "", {"model_dir": "models/bert.zip"}),
    ],
)
def test_parse(path: str, scheme: str, server: dict[str, Any]) -> None:
    assert paths.parse(path) == (scheme, server)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (
            "store://demo/model/huggingface/bert:1",
            "path is 'store://demo/model/huggingface/bert:1', a model of a DigitalHub platform, which is not asked "
            "here; give the path that the model has there (s3://…, hf://…) or a local directory",
        ),
        ("hf://", "path is 'hf://'; a model on the hub is hf://org/name or hf://org/name:revision"),
        ("hf://a/b/c", "path is 'hf://a/b/c'; a model on the hub is hf://org/name or hf://org/name:revision"),
        (
            "ftp://host/model",
            "path is 'ftp://host/model'; it must be a local path or begin with one of hf://, huggingface://, s3://, "
            "http://, https://, file://",
        ),
        (
            "s3://",
            "path is 's3://'; it must be a local path or begin with one of hf://, huggingface://, s3://, http://, "
            "https://, file://",
        ),
    ],
)
def test_refused(path: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        paths.parse(path)
    assert found.value.message == message


def test_a_local_path_is_kept_from_the_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/anna")
    assert paths.absolute("bert") == str(tmp_path / "bert")
    assert paths.absolute("~/bert") == "/home/anna/bert"
    assert paths.absolute("hf://org/name") == "hf://org/name"
    assert paths.absolute("s3://bucket/a/../b") == "s3://bucket/a/../b", "a bucket's keys may have that"


def test_a_local_path_is_kept_without_dots(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    monkeypatch.chdir(tmp_path / "here")
    for typed, kept in {
        "..": tmp_path,
        "../bert": tmp_path / "bert",
        "./bert/../bert/": tmp_path / "here" / "bert",
        f"{tmp_path}/not/there/../../bert": tmp_path / "bert",
        "../link/bert": tmp_path / "link" / "bert",
        "../link/../bert": tmp_path / "far" / "bert",
        "/../../bert": Path("/bert"),
    }.items():
        assert paths.absolute(typed) == str(kept), typed


def test_what_is_not_here_is_said(tmp_path: Path) -> None:
    paths.check_here(str(tmp_path))
    paths.check_here("hf://org/name")
    (tmp_path / "a b").touch()
    digest = "#sha256=" + "0" * 64
    for url in (f"file://{tmp_path}", f"file://localhost{tmp_path}/a%20b", f"FILE://{tmp_path}/a%20b{digest}"):
        paths.check_here(url)
    for missing in (tmp_path / "nowhere", f"file://{tmp_path}/nowhere", f"file://{tmp_path}/nowhere{digest}"):
        with pytest.raises(ConfigError, match=r"path is '.*nowhere', and there is nothing at that place on this mach"):
            paths.check_here(str(missing))
    for another in ("file://host/models", "file://models"):
        with pytest.raises(ConfigError, match=f"path is '{another}'; a path of this machine is file:///models/bert"):
            paths.check_here(another)


@pytest.mark.parametrize(
    ("function", "run"),
    [
        ("hf://org/name", "hf://org/name:v2"),
        ("hf://org/name", "hf://Org/Name"),
        ("s3://bucket/models/", "s3://bucket/models/bert/"),
        ("s3://bucket/models/", "S3://bucket/models/"),
        ("/models", "/models/bert"),
        ("/models/", "/models/bert/1"),
        ("/models", "/models"),
    ],
)
def test_a_run_may_go_below_its_functions_path(function: str, run: str) -> None:
    paths.check_override(run, function)


@pytest.mark.parametrize(
    ("function", "run"),
    [
        ("hf://org/name", "hf://org/name-uncensored"),
        ("hf://org/name", "hf://other/name"),
        ("s3://bucket/models/", "s3://bucket/models/../secrets/"),
        ("s3://bucket/models", "s3://bucket/models2/"),
        ("/models/bert", "/models"),
        ("/models", "/Models/bert"),
        ("/models", "/models/../etc"),
        ("/models", "/models/bert/.."),
    ],
)
def test_and_nowhere_else(function: str, run: str) -> None:
    with pytest.raises(ConfigError) as found:
        paths.check_override(run, function)
    assert found.value.message == f"path is {run!r}; a run's path is below its function's, {function!r}"


@pytest.mark.parametrize(
    ("path", "title"),
    [
        ("hf://google-bert/bert-base-uncased:main", "bert-base-uncased"),
        ("https://host/models/iris.skops?token=a#sha256=b", "iris"),
        ("s3://bucket/bert/", "bert"),
        ("./models/bert.zip", "bert"),
        (".hidden", ".hidden"),
    ],
)
def test_title(path: str, title: str) -> None:
    assert paths.title(path) == title
