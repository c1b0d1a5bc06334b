"""The environment that vLLM lives in, this one or --vllm_python's: what its vLLM is, and which arguments it takes.

Asks vllm_probe.py, which that environment's Python runs. Knows no model. Blocking; runs in the load thread.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

import msgspec

from modelserve.errors import LoadError

PROBE = Path(__file__).with_name("vllm_probe.py")
_PROBE_S = 300.0
"""Importing vLLM took ten seconds on an idle machine, and a minute on a busy one."""
SILENT = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
"""vLLM reports nothing to anybody."""


class Found(msgspec.Struct, frozen=True):
    """What an environment's vLLM says of itself and of some arguments. Names are those of its namespace."""

    missing: str = ""
    """Why it cannot be imported."""
    version: str = ""
    device: str = ""
    """cpu, cuda, …"""
    has_command: bool = True
    """Its distribution is called vllm; the command `vllm` fails without."""
    has_socket: bool = True
    """Its server listens on a Unix socket when told to."""
    architectures: list[str] = []
    wrong: str = ""
    """What its parser says against the arguments."""
    given: list[str] = []
    """Names that the arguments set."""
    foreign: list[str] = []
    """Those that are about vLLM's own HTTP server, which nobody sees here."""
    adapters: list[tuple[str, str]] = []
    """(name, path) of --lora_modules."""
    tensor_parallel_size: int = 1


def installed(python: str | None) -> bool:
    """Whether there is a vLLM to ask: a cheap look at this environment; another one is given because it has one."""
    return python is not None or importlib.util.find_spec("vllm") is not None


def python_of(given: str | None) -> str:
    return str(Path(given).expanduser()) if given else sys.executable


@lru_cache(maxsize=4)
def probe(python: str, args: tuple[str, ...] = ()) -> Found:
    """Raises LoadError when that Python cannot be run or its vLLM not be imported."""
    try:
        done = subprocess.run(
            [python, str(PROBE)],
            input=msgspec.json.encode({"args": args}),
            capture_output=True,
            env=os.environ | SILENT | {"VLLM_LOGGING_LEVEL": "ERROR"},
            timeout=_PROBE_S,
            check=False,
        )
    except OSError as error:
        raise LoadError(f"--vllm_python {python} cannot be run: {error.strerror}; give the Python of vLLM") from error
    except subprocess.TimeoutExpired as error:
        raise LoadError(f"vLLM could not be imported by {python} within {_PROBE_S:g} s") from error
    try:
        found = msgspec.json.decode(done.stdout, type=Found)
    except msgspec.DecodeError as error:
        said = done.stderr.decode(errors="replace").strip().splitlines() or ["it said nothing"]
        raise LoadError(f"--vllm_python {python} did not answer what its vLLM is: {said[-1]}") from error
    if found.missing:
        raise LoadError(
            f"vLLM cannot be imported by {python} ({found.missing}); install it there with `pip install vllm`, or name "
            "the Python of an environment that has it with --vllm_python"
        )
    return found
