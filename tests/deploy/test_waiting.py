"""How far a load is, as a person sees it on a terminal; lines for logs and notebooks are in test_run.py."""

from __future__ import annotations

import io
import sys
import threading
from pathlib import Path

import pytest

import modelserve as ms
from modelserve.deploy import catalog
from modelserve.deploy.change import Change
from tests.deploy import nowhere


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    nowhere.use(monkeypatch, tmp_path)
    for name, value in {"TERM": "xterm", "COLUMNS": "100"}.items():
        monkeypatch.setenv(name, value)
    run = ms.new_function("demo", "bert", "huggingfaceserve", path="hf://org/bert").run("serve")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)

    def answer() -> None:
        catalog.store().change("run", "demo", run.id, Change("RUNNING").of)

    soon = threading.Timer(0.5, answer)
    soon.start()
    run.wait(timeout=30, poll=0.05)
    soon.join()
    assert "PENDING load" in terminal.getvalue()
    assert "50%" in terminal.getvalue()
    assert run.state == "RUNNING"
