"""`modelserve manifest --kustomize`: a directory that is written whole or not at all, and loses nobody's files."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

import pytest
import yaml

from modelserve.commands import folder
from modelserve.deploy import catalog
from modelserve.errors import ConfigError
from tests.blocks import ROOT
from tests.commands.conftest import Typed

PATH = "hf://google-bert/bert-base-uncased"
EXAMPLE = ROOT / "examples" / "kubernetes" / "kustomize"


def held(directory: Path) -> dict[str, str]:
    """Every file below, hidden ones too."""
    return {path.relative_to(directory).as_posix(): path.read_text() for path in directory.rglob("*") if path.is_file()}


def test_a_base_is_what_is_printed(home: Path, typed: Typed, tmp_path: Path) -> None:
    base = tmp_path / "deploy" / "base"
    words = ("manifest", PATH, "--model_cache", "5Gi", "--replicas", "2")
    done = typed(*words, "--kustomize", str(base))
    assert (done.status, done.err) == (0, "")
    assert sorted(done.out.splitlines()) == sorted(str(path) for path in base.iterdir())
    names = yaml.safe_load((base / "kustomization.yaml").read_text())["resources"]
    printed = list(yaml.safe_load_all(typed(*words).out))
    assert [yaml.safe_load((base / name).read_text()) for name in names] == printed
    assert base.stat().st_mode & 0o777 == 0o777 & ~_umask(), "others may read it"
    assert [path.name for path in base.parent.iterdir()] == ["base"]
    assert catalog.list_functions() == []


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_ours_is_written_anew_and_the_names_stay(home: Path, typed: Typed, tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    assert typed("manifest", PATH, "--kustomize", str(base), "--model_cache", "5Gi").status == 0
    first = held(base)
    (base / "service.yaml").write_text("spoiled")
    assert typed("manifest", PATH, "--kustomize", str(base), "--model_cache", "5Gi").status == 0
    assert held(base) == first
    assert typed("manifest", PATH, "--kustomize", str(base), "--flavor", "kserve").status == 0
    assert set(held(base)) == {"kustomization.yaml", "names.yaml", "serving-runtime.yaml", "inference-service.yaml"}
    assert typed("manifest", PATH, "--kustomize", str(base)).status == 0
    assert set(held(base)) == first.keys() - {"persistent-volume-claim-modelserve-cache.yaml"}
    assert [path.name for path in tmp_path.iterdir() if path != home] == ["base"]


@pytest.mark.parametrize("theirs", ["thesis.txt", "kustomization.yaml", "base/deployment.yaml", ".git/config"])
def test_a_directory_that_holds_something_else_is_left_alone(
    home: Path, typed: Typed, tmp_path: Path, theirs: str
) -> None:
    place = tmp_path / "place"
    (place / theirs).parent.mkdir(parents=True)
    (place / theirs).write_text("dear\n")
    done = typed("manifest", PATH, "--kustomize", str(place))
    assert (done.status, done.out) == (2, "")
    assert f"which holds something else: {theirs.split('/')[0]}; name another directory" in done.err
    assert held(place) == {theirs: "dear\n"}


def test_a_file_that_somebody_put_beside_ours_is_not_lost(home: Path, typed: Typed, tmp_path: Path) -> None:
    base = tmp_path / "base"
    assert typed("manifest", PATH, "--kustomize", str(base)).status == 0
    (base / "patch.yaml").write_text("mine\n")
    before = held(base)
    done = typed("manifest", PATH, "--kustomize", str(base))
    assert (done.status, "holds something else: patch.yaml" in done.err) == (2, True)
    assert held(base) == before


def test_values_are_written_only_when_asked_for(
    home: Path, typed: Typed, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    catalog.get_or_create_project("default").new_secret("TOKEN", "s3cret")
    base = tmp_path / "base"
    words = ("manifest", PATH, "--secret", "TOKEN", "--kustomize", str(base))
    assert typed(*words).status == 0
    assert "(TOKEN) is left out, since it has values in it" in caplog.text
    assert "secret.yaml" not in held(base)
    assert "with TOKEN" in held(base)["kustomization.yaml"]
    assert not any("czNjcmV0" in text or "s3cret" in text for text in held(base).values())
    assert typed(*words, "--with-secrets").status == 0
    assert "czNjcmV0" in held(base)["secret.yaml"]
    assert "with TOKEN" not in held(base)["kustomization.yaml"]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ((PATH, "--kustomize", "x", "--json"), "--json prints, and --kustomize writes; leave one out"),
        (("--kserve-runtime", "--kustomize", "x"), "--kustomize is for a model's objects"),
        ((PATH, "--kustomize="), "--kustomize is ''; it must be a directory"),
        ((PATH, "--kustomize"), "--kustomize needs a value"),
        ((PATH, "--kustomize", "."), "where this shell is; name a directory below"),
        ((PATH, "--kustomize", ".."), "where this shell is; name a directory below"),
        ((PATH, "--kustomize", "file"), "--kustomize is 'file', which is a file; name a directory"),
        ((PATH, "--kustomize", "file/base"), "--kustomize is 'file/base', which cannot be written: File exists"),
        (("./gone", "--kustomize", "x"), "a place of this machine, which no pod sees"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_nothing_is_written(
    home: Path, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], sentence: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "file").write_text("")
    monkeypatch.chdir(place)
    done = typed("manifest", *words)
    assert (done.status, done.out) == (2, "")
    assert sentence in done.err
    assert held(place) == {"file": ""}
    assert "--kustomize is for `modelserve manifest`" in typed("run", PATH, "--kustomize", "x").err


@pytest.mark.parametrize("failing", [1, 2])
@pytest.mark.parametrize("full", [False, True])
def test_what_fails_on_the_way_leaves_what_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int, full: bool
) -> None:
    """The disk is full at the second file, or the new directory cannot be moved to its place."""
    target = tmp_path / "base"
    if full:
        folder.replace("--o", target, {"a": "old", "b": "old"}, lambda _: set())
    before = held(tmp_path)
    write, rename = Path.write_text, os.rename

    def full_disk(self: Path, text: str, **given: str) -> int:
        if self.name == "b":
            raise OSError(28, "No space left on device")
        return write(self, text, **given)

    def refused(source: Path, place: Path) -> None:
        if source.name == "new":
            raise OSError(13, "Permission denied")
        rename(source, place)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_text", full_disk) if failing == 1 else patch.setattr(os, "rename", refused)
        with pytest.raises(ConfigError, match=r"--o is '.*base', which cannot be written: (No space|Permission)"):
            folder.replace("--o", target, {"a": "new", "b": "new"}, lambda _: {"a", "b"})
    assert held(tmp_path) == before
    assert target.exists() is full
    folder.replace("--o", target, {"b": "new"}, lambda _: {"a", "b"})
    assert held(tmp_path) == {"base/b": "new"}


def test_a_link_to_a_directory_stays_one(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    folder.replace("--o", tmp_path / "link", {"a": "1"}, lambda _: set())
    assert (tmp_path / "link").is_symlink()
    assert held(tmp_path / "real") == {"a": "1"}


def test_the_example_is_what_the_command_of_its_page_writes(home: Path, typed: Typed, tmp_path: Path) -> None:
    page = (EXAMPLE.parent / "README.md").read_text().replace("\\\n", " ")
    (line,) = [line for line in page.splitlines() if line.startswith("modelserve manifest") and "--kustomize" in line]
    _, *words = shlex.split(line)
    place = words.index("--kustomize") + 1
    assert ROOT / words[place] == EXAMPLE / "base"
    words[place] = str(tmp_path / "base")
    assert typed(*words).status == 0
    assert held(tmp_path / "base") == held(EXAMPLE / "base"), f"run: {line}"
