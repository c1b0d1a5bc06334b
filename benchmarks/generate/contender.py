"""What writes, and one measurement of it. Each contender is a child process, idle while the others are measured.

Knows no target and no table.
"""

from __future__ import annotations

import http.client
import json
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Protocol

from benchmarks.child import BenchmarkError, Child
from benchmarks.contender import percentile, ready
from benchmarks.generate import model

PROMPT, TOKENS, LONG = 64, 64, 1800
"""Tokens: of a prompt, of its text, and of the prompt that joins."""
_FEW = 8
START_S = 900.0
"""vLLM compiles for minutes."""


@dataclass(frozen=True, slots=True)
class Measure:
    """One contender at one concurrency in one round; what a contender cannot tell is None."""

    tokens_per_s: float
    first_ms: float | None = None
    """Median time to the first token."""
    gap_ms: float | None = None
    """Median time between two tokens of one text."""
    gap_p99_ms: float | None = None
    cores: float = 0.0


@dataclass(frozen=True, slots=True)
class Stall:
    """What a long prompt that joins does to the texts that are being written."""

    usual_ms: float
    """Median gap before it came."""
    worst_ms: float
    """The longest gap of any text while it was read."""
    first_s: float
    """Its own time to the first token."""


class Contender(Protocol):
    name: str
    child: Child
    most: int
    """Callers that it can have."""

    def wake(self) -> None:
        """A few tokens that are not counted: its memory may have gone cold while the others were measured."""

    def measure(self, callers: int, texts: int, seed: int) -> Measure: ...


class Served:
    """A server of modelserve's, asked over /v1/completions."""

    most = 1 << 20

    def __init__(self, name: str, child: Child, port: int) -> None:
        self.name, self.child, self._port = name, child, port

    def wake(self) -> None:
        self._run(prompts=model.prompts(1, PROMPT, 98), tokens=_FEW, callers=1)

    def measure(self, callers: int, texts: int, seed: int) -> Measure:
        cpu = self.child.cpu_s()
        said = self._run(prompts=model.prompts(texts, PROMPT, seed), tokens=TOKENS, callers=callers)
        used = self.child.cpu_s() - cpu
        if any(text["tokens"] != TOKENS for text in said["texts"]):
            raise BenchmarkError(f"{self.name}: a text has not {TOKENS} tokens")
        first = [text["events"][0] - text["sent"] for text in said["texts"]]
        gaps = [b - a for text in said["texts"] for a, b in zip(text["events"], text["events"][1:], strict=False)]
        return Measure(
            texts * TOKENS / said["seconds"],
            1000 * median(first),
            1000 * median(gaps),
            1000 * percentile(gaps, 0.99),
            used / said["seconds"],
        )

    def stall(self, callers: int, seed: int) -> Stall:
        """`callers - 1` texts are being written, and one prompt of LONG tokens joins."""
        self._run(prompts=model.prompts(1, LONG, seed + 2), tokens=2, callers=1)  # not counted: as `wake`
        prompts = model.prompts(callers - 1, PROMPT, seed)
        late = model.prompts(1, LONG, seed + 1)[0]
        *texts, long = self._run(prompts=prompts, tokens=220, callers=callers - 1, late=late)["texts"]
        begin, end = long["sent"], long["events"][0]
        usual, during = [], []
        for text in texts:
            for a, b in zip(text["events"][1:], text["events"][2:], strict=False):
                if b < begin:
                    usual.append(b - a)
                elif a <= end:
                    during.append(b - a)
        return Stall(1000 * median(usual), 1000 * max(during), end - begin)

    def describe(self) -> str:
        """What it runs on, and how, as /info says."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        connection.request("GET", "/info")
        info: dict[str, Any] = json.loads(connection.getresponse().read())
        connection.close()
        return f"{self.name}: {info.get('device', '')}, {info.get('engine', '')}"

    def _run(self, **job: Any) -> dict[str, Any]:
        with Child(["benchmarks.generate.stream"], folder=self.child.log.parent) as client:
            client.say({"port": self._port, **job})
            said: dict[str, Any] = client.hear()
        return said


class OneByOne:
    """transformers' `generate`, in process."""

    most = 1

    def __init__(self, name: str, child: Child) -> None:
        self.name, self.child = name, child

    def wake(self) -> None:
        self._run(1, 98, _FEW)

    def measure(self, callers: int, texts: int, seed: int) -> Measure:
        cpu = self.child.cpu_s()
        seconds = self._run(texts, seed, TOKENS)
        return Measure(texts * TOKENS / seconds, cores=(self.child.cpu_s() - cpu) / seconds)

    def _run(self, texts: int, seed: int, tokens: int) -> float:
        """Seconds that it took."""
        self.child.say({"prompts": model.prompts(texts, PROMPT, seed), "tokens": tokens})
        seconds: float = self.child.hear()["seconds"]
        return seconds


class Genai:
    """openvino-genai, in process."""

    most = 1 << 20

    def __init__(self, name: str, child: Child) -> None:
        self.name, self.child = name, child

    def wake(self) -> None:
        self._run(1, 1, 98, _FEW)

    def measure(self, callers: int, texts: int, seed: int) -> Measure:
        said = self._run(callers, texts, seed, TOKENS)
        if said["tokens"] != texts * TOKENS:
            raise BenchmarkError(f"{self.name} wrote {said['tokens']} tokens, not {texts * TOKENS}")
        seconds = said["seconds"]
        return Measure(said["tokens"] / seconds, 1000 * median(said["first"]), cores=said["cpu_s"] / seconds)

    def _run(self, callers: int, texts: int, seed: int, tokens: int) -> dict[str, Any]:
        self.child.say({"prompts": model.prompts(texts, PROMPT, seed), "tokens": tokens, "callers": callers})
        said: dict[str, Any] = self.child.hear()
        return said


def serve(stack: ExitStack, folder: Path, name: str, flags: list[str]) -> Served:
    """A server of ours, ready."""
    ports = folder / f"ports-{time.monotonic_ns()}"
    command = [
        "modelserve",
        "serve",
        "--model_name",
        "m",
        "--host",
        "127.0.0.1",
        "--http_port",
        "0",
        "--grpc_port",
        "0",
    ]
    command += ["--log_level", "warning", *flags]
    child = stack.enter_context(Child(command, folder=folder, environment={"MODELSERVE_PORTS_FILE": str(ports)}))
    child.wait(ports.exists)
    port = json.loads(ports.read_text())["http_port"]
    child.wait(lambda: ready(port), START_S)
    return Served(name, child, port)


def one_by_one(stack: ExitStack, folder: Path, dtype: str, device: str, threads: int) -> OneByOne:
    child = stack.enter_context(Child(["benchmarks.generate.one_by_one"], folder=folder))
    child.say({"directory": str(model.directory()), "dtype": dtype, "device": device, "threads": threads})
    child.hear()
    return OneByOne(f"generate, one request at a time, {dtype}", child)


def genai(stack: ExitStack, folder: Path, directory: str, precision: str, threads: int) -> Genai:
    child = stack.enter_context(Child(["benchmarks.generate.genai"], folder=folder))
    child.say({"directory": directory, "precision": precision, "threads": threads})
    child.hear()
    return Genai(f"openvino-genai in process, {precision}", child)
