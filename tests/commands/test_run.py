"""`modelserve run`: which function it serves, how long it stays, and what it leaves behind."""

import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from modelserve.commands.named import function_of
from modelserve.deploy import catalog, notes
from modelserve.deploy.function import Function
from modelserve.run_line import parse
from tests.commands.conftest import Typed, shell
from tests.deploy.runs import await_


def function(*words: str) -> Function:
    return function_of(parse(words))


@pytest.fixture
def here(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with some files, beside an empty home."""
    directory = tmp_path / "here"
    for name in ("model", "other/model", "saved"):
        (directory / name).mkdir(parents=True)
    (directory / "saved" / "MLmodel").touch()
    (directory / "trees.joblib").touch()
    monkeypatch.chdir(directory)
    return directory


def test_a_path_makes_a_function_once(here: Path) -> None:
    made = function("./model")
    assert (made.name, made.kind, made.spec.path) == ("model", "huggingfaceserve", str(here / "model"))
    assert function("./model") == function(str(here / "model")) == function("other/../model") == made
    assert function("model") == made, "by its name"
    assert function(made.key) == made


def test_another_path_of_that_name_is_another_version(here: Path) -> None:
    first, second = function("./model"), function("other/model")
    assert (first.name, second.name) == ("model", "model")
    assert first != second
    assert function("./model", "--name", "mine").name == "mine"
    assert function("./model", "--project", "demo").project == "demo"
    assert len(catalog.get_function_versions("model", "default")) == 2


def test_a_directory_is_named_after_itself(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(here / "model")
    assert (function(".").name, function(".").spec.path) == ("model", str(here / "model"))
    assert function("..").name == "here"


@pytest.mark.parametrize(
    ("path", "name", "kind"),
    [
        ("trees.joblib", "trees", "sklearnserve"),
        ("saved", "saved", "mlflowserve"),
        ("hf://google-bert/bert-base-uncased:v1", "bert-base-uncased", "huggingfaceserve"),
        ("https://host/a/Trees%20Big.PKL?version=3", "trees-20big", "sklearnserve"),
        ("s3://bucket/model.zip", "model", "huggingfaceserve"),
    ],
)
def test_the_path_tells_name_and_kind(here: Path, path: str, name: str, kind: str) -> None:
    made = function(path)
    assert (made.name, made.kind) == (name, kind)
    assert function(path, "--kind", "huggingfaceserve").kind == "huggingfaceserve"


@pytest.mark.parametrize(
    ("words", "status", "sentence"),
    [
        (
            ("nothing",),
            3,
            "the project 'default' has no function 'nothing', and no file or directory here has that name",
        ),
        (("org/name",), 2, "there is nothing at that place on this machine; a model on the hub is hf://org/name"),
        (("./nothing",), 2, "path is './nothing', and there is nothing at that place on this machine"),
        (("hf://a/b/c",), 2, "a model on the hub is hf://org/name or hf://org/name:revision"),
        (("store://default/function/huggingfaceserve/x",), 3, "the project 'default' has no function 'x'"),
        (
            ("./model", "--kind", "foo"),
            2,
            "kind is 'foo'; it must be one of huggingfaceserve, sklearnserve, mlflowserve",
        ),
        (("./model", "--target", "moon"), 2, "target is 'moon'; it must be one of local, kubernetes"),
        (("./model", "--replica", "2"), 2, "unknown flag --replica; did you mean --replicas?"),
        (("./model", "--replicas", "0"), 2, "replicas is 0; it must be a whole number of at least 1"),
        (("./model", "--dtype", "float7"), 2, "float7"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    here: Path, typed: Typed, words: tuple[str, ...], status: int, sentence: str
) -> None:
    done = typed("run", *words)
    assert (done.status, done.out, done.err.count("\n")) == (status, "", 1)
    assert sentence in done.err
    assert catalog.list_functions() == []
    assert catalog.list_runs() == []


def test_a_run_that_is_refused_leaves_no_function(here: Path, typed: Typed) -> None:
    for words, status in ((("--secret", "GONE"), 3), (("--profile", "gone"), 2)):
        assert typed("run", "./model", *words).status == status
        assert catalog.list_functions() == []
    made = function("./model")
    assert typed("run", "./model", "--profile", "gone").status == 2
    assert catalog.list_functions() == [made], "one that was there stays"


def test_a_name_that_is_two_things(here: Path, typed: Typed) -> None:
    made = function("./other/model")
    done = typed("run", "model")
    assert done.status == 2
    assert f"model is a function and a path here; write ./model for the path, or {made.key}" in done.err
    assert typed("run", made.key, "--kind", "mlflowserve").err.endswith(
        "is a function, whose kind is 'huggingfaceserve'\n"
    )


def test_no_words_are_a_question(typed: Typed) -> None:
    done, asked = typed("run"), typed("run", "--help")
    assert (done.status, done.out, asked.status, asked.err) == (2, "", 0, "")
    assert done.err == asked.out


def test_a_signal_waits_for_the_run_to_be_there() -> None:
    """In a process of its own: signals are a whole process's, and this one runs other tests, with their threads."""
    program = """
import os, signal
from modelserve.commands import run as command

with command._signals() as signals:
    os.kill(os.getpid(), signal.SIGTERM)
    try:
        signals.heed()
    except KeyboardInterrupt:
        print("heeded", signals.number)
    try:
        os.kill(os.getpid(), signal.SIGHUP)
    except KeyboardInterrupt:
        print("at once", signals.number)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "heeded 15\nat once 1\n", "")


def test_what_was_typed_reaches_the_server(served: str) -> None:
    run = catalog.get_run(served)
    assert run.spec.envs == [{"name": "GREETING", "value": "hello"}]
    assert run.spec.secrets == ["TOKEN"]
    ports = notes.read(notes.Files(served).ports, notes.Ports)
    assert ports is not None
    environ = psutil.Process(ports.pid).environ()
    assert (environ["GREETING"], environ["TOKEN"]) == ("hello", "kept-from-view")
    assert run.client.info()["threads"] == 1


def test_a_model_that_does_not_load(here: Path, typed: Typed) -> None:
    done = typed("run", "./model", "--json")
    assert (done.status, done.out) == (1, "")
    assert "is ERROR: there is no config.json in" in done.err
    (row,) = typed("runs", "--json").json
    assert (row["state"], "config.json" in row["message"]) == ("ERROR", True), "it stays, with its reason"


def foreground(path: Path, *words: str, **options: Any) -> subprocess.Popen[str]:
    """A run in the foreground, whose model answers."""
    process = shell("run", str(path), "--resources=cpu=1", *words, **options)
    assert process.stdout is not None
    line = process.stdout.readline()
    assert "RUNNING http://127.0.0.1:" in line, (line, process.communicate())
    return process


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_ends_the_run_in_the_foreground(home: Path, model: Path, number: int, status: int) -> None:
    with foreground(model, "--name", "bert") as process:
        assert process.stdout is not None
        assert any("ready: {" in line for line in process.stdout), "the log follows"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    (run,) = catalog.list_runs()
    assert (process.returncode, run.state) == (status, "STOPPED")
    assert "RUNNING at http://127.0.0.1:" in err
    assert err.endswith(f"stopping the run {run.id[:12]}\n")


@pytest.mark.slow
def test_one_that_is_stopped_elsewhere_ends_well(home: Path, model: Path) -> None:
    with foreground(model, "--name", "bert") as process:
        catalog.list_runs()[0].stop()
        process.communicate(timeout=60)
    assert process.returncode == 0


@pytest.mark.slow
def test_ctrl_c_while_it_loads(home: Path, model: Path) -> None:
    with shell("run", str(model)) as process:
        (run,) = await_(lambda: catalog.list_runs(state="PENDING"), 30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, run.refresh().state) == (130, "STOPPED")
    assert "Traceback" not in err


@pytest.mark.slow
def test_ctrl_c_leaves_a_detached_run(home: Path, model: Path) -> None:
    with shell("run", str(model), "--detach") as process:
        (run,) = await_(lambda: catalog.list_runs(state="PENDING"), 30)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith(f"the run {run.id[:12]} goes on; `modelserve stop {run.id[:12]}` ends it\n")
    assert run.wait(timeout=60).state == "RUNNING"


@pytest.mark.slow
def test_too_little_time(home: Path, model: Path, typed: Typed) -> None:
    done = typed("run", str(model), "--timeout", "0.1")
    (run,) = catalog.list_runs()
    assert (done.status, run.state) == (4, "STOPPED")
    assert "after 0.1 s" in done.err.splitlines()[-1]
    done = typed("run", str(model), "--timeout=0.1", "--detach", "--json")
    assert (done.status, catalog.list_runs()[0].alive) == (4, True), "it was told to stay"
