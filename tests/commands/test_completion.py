"""Completion, in a real bash; and the words in a process of ours."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelserve.deploy import catalog
from tests.commands.conftest import Typed
from tests.commands.records import ready

BASH = """
eval "$(modelserve completion bash)"
COMP_WORDS=(modelserve {words})
COMP_CWORD={last}
_modelserve_completion modelserve
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


def completed(*words: str, **environment: str) -> list[str]:
    """What bash offers for the last word."""
    quoted = " ".join(f"'{word}'" for word in words)
    done = subprocess.run(
        ["bash", "-c", BASH.format(words=quoted, last=len(words))],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"} | environment,
    )
    assert "Traceback" not in done.stderr
    return done.stdout.split()


def test_commands_and_options(home: Path) -> None:
    assert completed("st") == ["stop"]
    assert completed("runs", "--j") == ["--json"]
    assert completed("runs", "--state", "RUN") == ["running"]


@pytest.mark.slow
def test_runs_by_name_and_id(home: Path) -> None:
    bert, other = ready("bert", id="b1" * 16), ready("other", "demo", id="0c" * 16)
    assert completed("stop", "b") == ["bert", bert.id[:12]]
    assert completed("logs", "0") == [other.id[:12]]
    assert completed("invoke", "--project", "demo", "b") == []
    assert completed("runs", "--project", "de") == []
    catalog.get_or_create_project("demo")
    assert completed("runs", "--project", "de") == ["demo"]


def test_run_and_serve(home: Path) -> None:
    catalog.new_function("default", "bert", "huggingfaceserve", path="hf://a/b")
    assert completed("run", "be") == ["bert"]
    assert completed("run", "./") == [], "files, by bash itself"
    assert completed("run", "bert", "--return_p") == ["--return_probabilities"]
    assert "--replicas" in completed("run", "--rep")
    assert completed("run", "bert", "--dtype", "bf") == ["bfloat16"]
    assert completed("serve", "--model_d") == ["--model_dir"]
    assert completed("secrets", "rm", "") == []


def test_a_store_that_cannot_be_read_offers_nothing(home: Path) -> None:
    assert completed("stop", "b", MODELSERVE_STORE_URL="sqlite:////proc/nowhere/x.db") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts(typed: Typed, shell: str) -> None:
    done = typed("completion", shell)
    assert done.status == 0
    assert f"_MODELSERVE_COMPLETE={shell}_complete" in done.out
    assert typed("completion", "sh").status == 2
