"""runs, wait, stop, resume, rm: which runs are meant, what is shown, and the exit status."""

import subprocess
import sys
from pathlib import Path

import pytest

from modelserve.deploy import catalog
from tests.commands.conftest import Typed
from tests.commands.records import ready

HEAVY = ("torch", "transformers", "numpy", "grpc", "kubernetes", "httpx2", "rich", "starlette", "yaml")


def test_no_runs(home: Path, typed: Typed) -> None:
    done = typed("runs")
    assert (done.status, done.out) == (0, "")
    assert done.err == "no runs; `modelserve run hf://ORG/NAME --detach` starts one\n"
    assert typed("runs", "--json").json == []


def test_a_run_in_the_table_and_as_json(served: str, typed: Typed) -> None:
    head, line = typed("runs").out.splitlines()
    assert head.split() == ["NAME", "STATE", "URL", "AGE", "CPU", "MEMORY", "REQUESTS/S", "ID"]
    (row,) = typed("runs", "--json").json
    assert line.split()[:3] == ["bert", "RUNNING", row["url"]]
    assert line.split()[-1] == served[:12] == row["id"][:12]
    assert row["url"].startswith("http://127.0.0.1:")
    assert row["memory_bytes"] > 2**20
    assert (row["project"], row["message"]) == ("default", "")
    assert catalog.get_run(row["key"]).id == served


def test_filters(home: Path, typed: Typed) -> None:
    first, second = ready("a"), ready("b", "demo")
    second.stop()
    assert [row["name"] for row in typed("runs", "--json").json] == ["b", "a"]
    assert [row["name"] for row in typed("runs", "--json", "--state", "ready").json] == ["a"]
    assert [row["name"] for row in typed("runs", "--json", "--project", "demo").json] == ["b"]
    assert typed("runs").out.splitlines()[0].endswith("PROJECT"), "where there are several"
    wrong = typed("runs", "--state", "gone")
    assert wrong.status == 2
    assert "'gone' is not one of" in wrong.err
    assert first.id


def test_what_failed_is_said_below_the_table(home: Path, typed: Typed, model: Path) -> None:
    run = ready("a")
    catalog.store().change("run", run.project, run.id, lambda one: one.replace(status=one.status | FAILED))
    done = typed("runs")
    assert "ERROR" in done.out
    assert done.err == f"{run.id[:12]} a: no config.json\n"


FAILED = {"state": "ERROR", "message": "no config.json\nin a folder"}


def test_a_run_is_found_by_name_id_and_key(home: Path, typed: Typed) -> None:
    run, other = ready("bert", id="abc1" * 8), ready("abc", id="abc2" * 8)
    for name in (run.id, run.id[:5], run.key, "bert"):
        assert typed("stop", name, "--json").json == [{"id": run.id, "key": run.key, "state": "STOPPED"}]
    assert typed("stop", "abc", "--json").json[0]["id"] == other.id, "a function's name before an id's beginning"
    several = typed("stop", "ab")
    assert (several.status, several.out) == (2, "")
    assert several.err == "modelserve: error: 2 runs begin with 'ab'; give more of the id\n"
    missing = typed("stop", "nobody")
    assert (missing.status, missing.err) == (3, "modelserve: error: there is no run 'nobody'\n")


def test_a_name_means_the_run_that_is_alive(home: Path, typed: Typed) -> None:
    alive, ended = ready("bert"), ready("bert")
    ended.stop()
    assert typed("stop", "bert", "--json").json[0]["id"] == alive.id
    assert typed("rm", "bert", "--json").json[0]["id"] == ended.id, "else the newest"
    again, other = ready("bert"), ready("bert", "demo")
    done = typed("stop", "bert")
    assert done.status == 2
    ids = f"{other.id[:12]}, {again.id[:12]}"
    assert done.err == f"modelserve: error: bert has 2 runs that are alive; give the id of one: {ids}\n"
    assert typed("stop", "bert", "--project", "demo").out == f"{other.id[:12]} bert STOPPED\n"


def test_all_are_found_before_the_first_is_touched(home: Path, typed: Typed) -> None:
    run = ready("bert")
    assert typed("rm", "bert", "nobody").status == 3
    assert catalog.get_run(run.id).state == "READY"


def test_one_that_fails_does_not_keep_the_others(home: Path, typed: Typed) -> None:
    alive, ended, other = ready("a"), ready("b"), ready("c")
    ended.stop()
    done = typed("resume", "--no-wait", "a", "c")
    assert (done.status, done.out) == (1, "")
    assert done.err.startswith("modelserve: error: 2 of 2 failed: the run is READY and cannot become RESUME")
    done = typed("rm", alive.id, alive.id[:20], "b")
    assert done.status == 0
    assert sorted(done.out.splitlines()) == sorted([f"{alive.id[:12]} a DELETED", f"{ended.id[:12]} b DELETED"])
    assert [one.id for one in catalog.list_runs()] == [other.id]


def test_sweeping(home: Path, typed: Typed) -> None:
    ready("a"), ready("b").stop(), ready("c", "demo")
    assert typed("rm").err == "modelserve: error: give runs, or --stopped or --all\n"
    assert typed("stop").status == 2
    assert typed("rm", "--stopped").out.split()[1:] == ["b", "DELETED"]
    assert typed("stop", "--all", "--project", "demo").out.split()[1:] == ["c", "STOPPED"]
    assert len(typed("rm", "--all").out.splitlines()) == 2
    assert typed("rm", "--all").status == 0, "nothing is nothing to do"


def test_wait_says_why_it_ends(home: Path, typed: Typed) -> None:
    run = ready("bert")
    done = typed("wait", "bert", "--timeout", "0.01")
    assert (done.status, done.out) == (4, "")
    assert done.err == f"READY\nmodelserve: error: the run {run.id} is still READY after 0.01 s\n"
    run.stop()
    assert typed("wait", "bert", "--json") == (1, "", f"modelserve: error: the run {run.id} is STOPPED\n")
    assert typed("wait", "bert", "--timeout", "x").status == 2


def test_wait_for_one_that_answers(served: str, typed: Typed) -> None:
    done = typed("wait", "bert", "--json")
    assert (done.status, done.err, done.json["id"]) == (0, "", served)


def test_runs_imports_nothing_heavy(served: str) -> None:
    program = "from modelserve.cli import main; main(['runs']); import sys; sys.exit(str({*sys.modules} & {*sys.argv}))"
    done = subprocess.run(
        [sys.executable, "-c", program, *HEAVY], capture_output=True, text=True, timeout=60, check=False
    )
    assert "RUNNING" in done.stdout
    assert done.stderr == "set()\n"


@pytest.mark.slow
def test_stop_resume_and_remove(home: Path, typed: Typed, model: Path) -> None:
    assert typed("run", str(model), "--name", "bert", "--detach", "--resources", "cpu=1", "--json").status == 0
    (before,) = typed("runs", "--json").json
    assert typed("stop", "bert").out == f"{before['id'][:12]} bert STOPPED\n"
    assert typed("runs", "--json").json[0]["url"] is None
    done = typed("resume", "bert")
    assert done.out == f"{before['id'][:12]} bert RUNNING {before['url']}\n", "at the same place"
    assert "PENDING load" in done.err.splitlines()
    assert typed("rm", "bert").out == f"{before['id'][:12]} bert DELETED\n"
    assert typed("runs", "--json").json == []
