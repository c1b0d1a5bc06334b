"""secrets and functions: lists, and values that are never shown."""

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelserve.deploy import catalog
from tests.commands.conftest import Typed


@pytest.fixture
def says(monkeypatch: pytest.MonkeyPatch) -> "type[Stdin]":
    Stdin.patch = monkeypatch
    return Stdin


class Stdin:
    """Puts bytes on standard input."""

    patch: pytest.MonkeyPatch

    def __init__(self, content: bytes) -> None:
        stdin = SimpleNamespace(isatty=lambda: False, buffer=io.BytesIO(content))
        self.patch.setattr("sys.stdin", stdin)


def test_set_list_remove(home: Path, typed: Typed, says: type[Stdin]) -> None:
    assert typed("secrets") == (0, "", "no secrets in the project default\n"), "nobody has made it yet"
    says(b"v4lue\n")
    set_ = typed("secrets", "set", "TOKEN", "--json")
    assert (set_.status, set_.json) == (0, {"project": "default", "name": "TOKEN"})
    assert catalog.store().get_secret("default", "TOKEN") == "v4lue"
    listed, told = typed("secrets"), typed("secrets", "--json")
    assert (listed.out, told.json) == ("NAME\nTOKEN\n", ["TOKEN"])
    assert "v4lue" not in "".join([*set_, *listed, *told][1:2])
    assert typed("secrets", "rm", "TOKEN") == (0, "", "")
    assert typed("secrets", "rm", "TOKEN") == (
        3,
        "",
        "modelserve: error: the project default has no secret 'TOKEN'\n",
    )


def test_the_project_is_said_before_or_behind(home: Path, typed: Typed, says: type[Stdin]) -> None:
    says(b"1")
    typed("secrets", "--project", "demo", "set", "A")
    says(b"2")
    typed("secrets", "set", "B", "--project", "demo")
    assert typed("secrets", "--project", "demo", "--json").json == ["A", "B"]
    assert typed("secrets", "--json").json == []
    assert typed("secrets", "--project", "other") == (3, "", "modelserve: error: there is no project 'other'\n")


@pytest.mark.parametrize(("content", "said"), [(b"\n", "is empty"), (b"\xff", "is no text in UTF-8")])
def test_values_that_are_none(home: Path, typed: Typed, says: type[Stdin], content: bytes, said: str) -> None:
    says(content)
    done = typed("secrets", "set", "A")
    assert done[:2] == (2, "")
    assert said in done.err
    assert catalog.list_projects() == []


def test_functions(home: Path, typed: Typed, tmp_path: Path) -> None:
    assert typed("functions") == (0, "", "no functions; `modelserve run PATH` makes one\n")
    old = catalog.new_function("default", "bert", "huggingfaceserve", path=str(tmp_path))
    new = catalog.new_function("default", "bert", "huggingfaceserve", path="hf://a/b")
    other = catalog.new_function("demo", "x", "sklearnserve", path="s3://b/x.pkl")
    head, *rows = typed("functions").out.splitlines()
    assert head.split() == ["NAME", "KIND", "PATH", "PROJECT", "AGE", "VERSION"]
    assert [row.split()[:4] for row in rows] == [
        ["x", "sklearnserve", "s3://b/x.pkl", "demo"],
        ["bert", "huggingfaceserve", "hf://a/b", "default"],
    ]
    assert rows[1].split()[-1] == new.id[:12]
    assert [one["id"] for one in typed("functions", "--all", "--json").json] == [other.id, new.id, old.id]
    assert [one["id"] for one in typed("functions", "--project", "demo", "--json").json] == [other.id]
