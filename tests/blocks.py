"""The code blocks of a Markdown page, and a reader who runs them from top to bottom.

A block's language says what it must prove:
  bash     runs, exit status 0. One that starts `modelserve serve` is what the reader types in a terminal of its own:
           it must get ready, and serves the blocks below it until the next such block.
  python   runs, exit status 0.
  json     parses. Right after a bash block it is what that block prints: same keys, same types, lists may be shortened.
  yaml     parses.
  text     is only read.
A page has a MODELSERVE_HOME of its own; what it leaves running is ended after it.
Ports 8080 and 8081 of a page are replaced by the free ones that the server took, and others by those that the reader
has been told. Knows no page.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml
from markdown_it import MarkdownIt

from tests.process import Server, started

ROOT = Path(__file__).resolve().parent.parent
LANGUAGES = ("bash", "python", "json", "yaml", "text")
SERVE = re.compile(r"(\w+=\S+ )*((python -m )?modelserve serve|python -m huggingfaceserver) ")
BLOCK_S = 60

MAKE = {"make test": "make --dry-run test", "make demo": "make demo ARGS=--once"}
"""A test does not run all tests, and the demo must end; what `make test` would do is shown to be well formed."""

FORGET = "import modelserve as ms; [run.delete() for run in ms.list_runs()]"
"""Ends what the page has left running."""


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; `line` is where the fence opens."""
    name = str(page.relative_to(ROOT))
    return [
        Block(name, token.map[0] + 1, token.info.strip(), token.content)
        for token in MarkdownIt().parse(page.read_text(encoding="utf-8"))
        if token.type == "fence" and token.map is not None
    ]


class Reader:
    """Someone who works through a page: one terminal for the server, one for everything else.

    python: the interpreter of the environment in which modelserve is installed. ports: of other servers that the page
    speaks of, and where they really are.
    """

    def __init__(
        self, environment: dict[str, str], python: Path = Path(sys.executable), ports: Mapping[int, int] | None = None
    ) -> None:
        self.python = python
        self.ports = dict(ports or {})
        self.environment = os.environ | environment | {"PATH": f"{python.parent}:{os.environ['PATH']}"}
        self.server: Server | None = None
        self.printed: str | None = None
        """What the last block printed, when it was a bash block."""
        self._end = contextlib.ExitStack()
        self._home = Path(tempfile.mkdtemp(prefix="home-"))
        self.environment |= {
            "MODELSERVE_HOME": str(self._home),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
        }

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.close()
        if (self._home / "modelserve.db").exists():
            subprocess.run(
                [str(self.python), "-c", FORGET], env=self.environment, cwd=ROOT, timeout=BLOCK_S, check=True
            )
        shutil.rmtree(self._home)

    def read(self, block: Block) -> None:
        """Run or check one block; AssertionError names it."""
        assert block.language in LANGUAGES, f"{block}: language {block.language!r}, not one of {', '.join(LANGUAGES)}"
        printed, self.printed = self.printed, None
        if block.language == "bash" and SERVE.match(block.text):
            self.serve(block)
        elif block.language == "bash":
            self.printed = self.run(block, ["bash", "-euo", "pipefail", "-c", self.typed(block)])
        elif block.language == "python":
            self.run(block, [str(self.python), "-c", self.typed(block)])
        elif block.language == "json":
            shown = json.loads(block.text)
            if printed is not None:
                different = difference(shown, json.loads(printed))
                assert different is None, f"{block}: {different}; the command above it printed: {printed}"
        elif block.language == "yaml":
            assert list(yaml.safe_load_all(block.text)), f"{block}: empty"

    def typed(self, block: Block) -> str:
        """The block with the ports that are really there."""
        ports: dict[int, int | None] = {**self.ports}
        if self.server is not None:
            ports |= {8080: self.server.http_port, 8081: self.server.grpc_port}
        text = block.text
        for shown, real in ports.items():
            text = re.sub(rf"\b{shown}\b", str(real), text)
        return "".join(MAKE.get(line.rstrip(), line.rstrip()) + "\n" for line in text.splitlines())

    def run(self, block: Block, command: list[str]) -> str:
        done = subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=BLOCK_S, check=False
        )
        log = f"\nserver's log:\n{self.server.log}" if self.server is not None else ""
        assert done.returncode == 0, f"{block}: exit status {done.returncode}\n{done.stdout}{done.stderr}{log}"
        return done.stdout

    def serve(self, block: Block) -> None:
        self.stop(block)
        ports = {"MODELSERVE_HTTP_PORT": "0", "MODELSERVE_GRPC_PORT": "0"}
        command = ["bash", "-c", f"exec env {self.typed(block)}"]
        self.server = self._end.enter_context(started(command, env=self.environment | ports))

    def stop(self, block: Block) -> None:
        """End the server above this block as a pod is ended; it must leave with 0."""
        if self.server is not None:
            code = self.server.stop()
            assert code == 0, f"the server above {block} ended with {code}:\n{self.server.log}"
            self.server = None
            self._end.close()


def difference(shown: Any, given: Any, path: str = "answer") -> str | None:
    """Where a printed answer has another form than the one a page shows; None when nowhere.

    Values may differ (models in tests are tiny and random). A shown list may be shorter than the given one, and a
    list that is not empty must not be shown for an empty one. An error's sentence is the same word for word.
    """
    if type(shown) is not type(given):
        return f"{path} is {type(given).__name__}, shown is {type(shown).__name__}"
    if isinstance(shown, dict):
        if shown.keys() != given.keys():
            return f"{path} has the keys {sorted(given)}, shown are {sorted(shown)}"
        pairs = [(f"{path}.{key}", shown[key], given[key]) for key in shown]
    elif isinstance(shown, list):
        if len(shown) > len(given):
            return f"{path} has {len(given)} elements, shown are {len(shown)}"
        pairs = [(f"{path}[{n}]", *both) for n, both in enumerate(zip(shown, given, strict=False))]
    elif path.endswith(".error") and shown != given:
        return f"{path} is {given!r}, shown is {shown!r}"
    else:
        return None
    return next((found for name, a, b in pairs if (found := difference(a, b, name))), None)
