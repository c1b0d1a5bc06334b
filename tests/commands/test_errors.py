"""What is expected to go wrong outside of us: one sentence, the right status, no traceback."""

from pathlib import Path

import pytest

from modelserve import cli
from modelserve.commands.index import SECTIONS
from tests.commands.conftest import Typed


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:////proc/nowhere/x.db", "cannot be made"),
        ("mysql://host/x", "begins with mysql://"),
        ("postgresql://someone:pass@127.0.0.1:1/x?connect_timeout=2", "cannot be reached"),
    ],
)
def test_a_store_out_of_reach(
    home: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch, model: Path, url: str, said: str
) -> None:
    pytest.importorskip("psycopg")
    monkeypatch.setenv("MODELSERVE_STORE_URL", url)
    for words in (["runs"], ["stop", "bert"], ["run", str(model)], ["secrets"], ["functions", "--json"]):
        done = typed(*words)
        assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
        assert said in done.err
        assert "pass@" not in done.err


def test_a_home_that_is_a_file(home: Path, typed: Typed) -> None:
    home.write_text("in the way")
    done = typed("runs")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert "cannot be made" in done.err


def test_a_run_that_has_no_place(home: Path, typed: Typed, model: Path) -> None:
    home.mkdir()
    (home / "runs").write_text("in the way")
    done = typed("run", str(model), "--detach")
    assert (done.status, done.out, done.err.count("\n")) == (1, "", 1)
    assert str(home / "runs") in done.err
    (home / "runs").unlink()
    (row,) = typed("runs", "--json").json
    assert row["state"] == "ERROR"


def test_the_help_is_in_an_order_that_makes_sense(typed: Typed) -> None:
    done = typed("--help")
    lines = [line.split()[0] for line in done.out.splitlines() if line.startswith("  ")]
    shown = [command.name for title, section in SECTIONS.items() if title for command in section]
    assert [line for line in lines if line in cli.modelserve.commands] == [*shown, "serve"]
    assert "..." not in done.out.partition("Options:")[2], "each has one whole line"
    assert "supervise" not in done.out


@pytest.mark.parametrize("command", [one for one in cli.modelserve.commands if one != "serve"])
def test_every_command_has_help_and_json(typed: Typed, command: str) -> None:
    done = typed(command, "--help")
    assert (done.status, done.err) == (0, "")
    assert ("--json" in done.out) == (command not in ("completion", "supervise"))
