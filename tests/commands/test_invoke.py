"""invoke and logs: a real model's answers and its log, through pipes and into files."""

import io
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest

from modelserve.deploy import catalog
from tests.commands.conftest import Typed, shell
from tests.commands.records import ready

TEXT = "the capital of france is [MASK]."
BODY = {"inputs": [{"name": "t", "shape": [1], "datatype": "BYTES", "data": [TEXT]}]}


def test_texts(served: str, typed: Typed) -> None:
    done = typed("invoke", "bert", TEXT, "paris is [MASK]")
    assert (done.status, done.err, len(done.json)) == (0, "", 2)
    assert len(done.out.splitlines()) > 1
    assert typed("invoke", served[:8], TEXT, "--json").out == json.dumps(done.json[:1]) + "\n"


def test_parameters(served: str, typed: Typed) -> None:
    (top,) = typed("invoke", "bert", TEXT, "-p", "top_k=3").json
    assert len(top) == 3
    wrong = typed("invoke", "bert", TEXT, "--parameter", "top_k=many")
    assert wrong.status == 1
    assert wrong.err.startswith("modelserve: error: 400: ")
    assert "top_k" in wrong.err
    unknown = typed("invoke", "bert", TEXT, "-p", "top_kk=3")
    assert unknown == (2, "", "modelserve: error: unknown parameter top_kk; did you mean top_k?\n")


def test_bodies(served: str, typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "body.json"
    file.write_text(json.dumps(BODY))
    given = typed("invoke", "bert", "--body", json.dumps(BODY)).json
    assert given["model_name"] == "tiny"
    assert typed("invoke", "bert", "--body", f"@{file}").json["outputs"] == given["outputs"]
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(file.read_bytes())))
    assert typed("invoke", "bert", "--body", "-").json["outputs"] == given["outputs"]
    missing = typed("invoke", "bert", "--body", "@nothing.json")
    assert missing[:2] == (2, "")
    assert missing.err == "modelserve: error: --body @nothing.json cannot be read: No such file or directory\n"


def test_other_routes(served: str, typed: Typed) -> None:
    assert typed("invoke", "bert", "--path", "/v2/health/ready", "--json").out == '{"ready": true}\n'
    assert typed("invoke", "bert", "--path", "metrics").out.startswith("# HELP")
    v1 = typed("invoke", "bert", "--path", "/v1/models/tiny:predict", "--body", json.dumps({"instances": [TEXT]}))
    assert list(v1.json) == ["predictions"]
    assert typed("invoke", "bert", "--path", "/info", "--method", "POST").err.startswith("modelserve: error: 405: ")


def test_what_the_model_refuses_is_its_sentence(served: str, typed: Typed) -> None:
    said = "modelserve: error: 400: input 0 has no mask token; write [MASK] where a word is to be found\n"
    assert typed("invoke", "bert", "no mask") == (1, "", said)
    body = {"inputs": [BODY["inputs"][0] | {"data": ["no mask"]}]}
    assert typed("invoke", "bert", "--body", json.dumps(body)) == (1, "", said)
    assert typed("invoke", "bert", "--path", "/nothing").err.startswith("modelserve: error: 404: There is nothing at")


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("bert",), "give texts to ask the model, or --body or --path"),
        (("bert", "text", "--path", "/info"), "give texts, or --body, --path and --method"),
        (("bert", "--path", "/info", "-p", "a=1"), "--parameter goes with texts; a body has its own parameters"),
        (("bert", "text", "-p", "a"), "--parameter is 'a'; it must be NAME=VALUE"),
    ],
)
def test_wrong_command_lines(typed: Typed, words: tuple[str, ...], sentence: str) -> None:
    assert typed("invoke", *words) == (2, "", f"modelserve: error: {sentence}\n")


def test_one_that_does_not_answer_yet(home: Path, typed: Typed) -> None:
    run = ready("bert")
    done = typed("invoke", "bert", "text")
    assert done.err == "modelserve: error: the run is READY and has no service yet; wait until it is RUNNING\n"
    run.stop()
    assert typed("invoke", "bert", "text").status == 1
    assert typed("invoke", "nobody", "text").status == 3


def test_logs(served: str, typed: Typed) -> None:
    lines = typed("logs", "bert").out.splitlines()
    assert any("ready: {" in line for line in lines)
    assert typed("logs", "bert", "--tail", "2").out.splitlines() == lines[-2:]
    assert typed("logs", "bert", "-n", "0").out == ""
    told = typed("logs", "bert", "--json").out.splitlines()
    assert [json.loads(line) for line in told] == lines


def test_logs_of_one_that_has_ended(home: Path, typed: Typed) -> None:
    ready("bert").stop()
    assert typed("logs", "bert", "-f") == typed("logs", "bert") == (0, "", "")


def test_a_reader_who_has_enough(served: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with shell("logs", "bert", stdout=writer) as process:
        os.close(writer)
        assert process.communicate(timeout=30)[1] == ""
    assert process.returncode == 0


def test_a_full_disk(served: str) -> None:
    with Path("/dev/full").open("w") as full, shell("logs", "bert", stdout=full) as process:
        assert process.communicate(timeout=30)[1] == "modelserve: error: No space left on device\n"
    assert process.returncode == 1


@pytest.mark.slow
def test_logs_follow_until_the_run_ends(home: Path, typed: Typed, model: Path) -> None:
    assert typed("run", str(model), "--name=bert", "--resources=cpu=1", "--no-wait").status == 0
    with shell("logs", "-f", "bert") as process:
        run = catalog.list_runs()[0].wait(timeout=60)
        run.predict(TEXT)
        run.stop()
        out, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (0, "")
    assert "path=/v1/models/model:predict code=200" in out
    assert out.splitlines() == typed("logs", "bert").out.splitlines()


@pytest.mark.slow
def test_ctrl_c_while_following(served: str) -> None:
    with shell("logs", "-f", "bert") as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=30)[1].strip() == ""
    assert process.returncode == 130
