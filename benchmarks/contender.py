"""What is measured against what, and one measurement of it. Runs on the benchmark's main thread.

Each contender is a child process that stays up, idle, while the others are measured. CPU is that of its process tree,
before and after; tokens are those of exactly the texts that it answered. Knows no target and no table.
"""

from __future__ import annotations

import functools
import http.client
import json
import os
import socket
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from benchmarks import texts
from benchmarks.as_installed import VARIABLE, hidden
from benchmarks.child import BenchmarkError, Child
from benchmarks.wire import Api, Vector, openai_base64, predict, v2_binary
from modelserve.backends.memory import tunables

MODEL = "minilm"
AS_INSTALLED = "benchmarks.as_installed"
APIS = {
    "V1 JSON": predict(f"/v1/models/{MODEL}:predict"),
    "V2 binary": v2_binary(f"/v2/models/{MODEL}/infer"),
    "OpenAI base64": openai_base64("/v1/embeddings", MODEL),
}
_WARM_S = 0.3


@dataclass(frozen=True, slots=True)
class Measure:
    """One contender, one set of texts, one concurrency, one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    tokens_per_cpu_s: float
    cores: float
    """CPU seconds of the contender per second, until the last answer."""
    client_cores: float
    """CPU seconds of the load generator per second."""


class Contender(Protocol):
    name: str

    def measure(self, name: str, concurrency: int, seconds: float, first: int) -> Measure:
        """So many texts of the set `name` in flight for so long, from number `first` on."""

    def embed(self, text: str) -> Vector:
        """The answer to one text, to compare with the others'."""


class Served:
    """A server, asked over one API."""

    def __init__(self, name: str, child: Child, port: int, api: Api) -> None:
        self.name, self.child, self.port, self._api = name, child, port, api

    def measure(self, name: str, concurrency: int, seconds: float, first: int) -> Measure:
        # First a short run that is not counted: every connection, thread and block of memory once.
        self.load(name, concurrency, _WARM_S, first)
        before = self.child.cpu_s()
        load = self.load(name, concurrency, seconds, first)
        return _measured(name, load, load["answered"], self.child.cpu_s() - before, load["client_cpu_s"])

    def load(self, name: str, concurrency: int, seconds: float, first: int) -> dict[str, Any]:
        """What benchmarks/load.py says of a run. Raises BenchmarkError when a request failed."""
        requests = [self._api.request(text).decode("latin-1") for text in texts.read(name)]
        job = {"port": self.port, "requests": requests, "connections": concurrency, "first": first}
        # Children are children of the benchmark, not of the server: their CPU is not the server's.
        with Child(["benchmarks.load"], folder=self.child.log.parent) as child:
            child.say({**job, "seconds": seconds})
            load: dict[str, Any] = child.hear()
        if errors := load["errors"]:
            raise BenchmarkError(f"{self.name}: {len(errors)} requests failed, the first with: {errors[0]}")
        return load

    def embed(self, text: str) -> Vector:
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(self._api.request(text))
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            body = answer.read()
        if answer.status != 200:
            raise BenchmarkError(f"{self.name} answered {answer.status}: {body[:200]!r}")
        return self._api.vector({key.lower(): value for key, value in answer.getheaders()}, body)


class InProcess:
    """The engine, in one layout and one arrangement of threads."""

    def __init__(self, child: Child, layout: str, streams: int) -> None:
        passes = "one pass on every core" if streams == 1 else "a pass on each core"
        self.name = f"in process, {'sorted' if layout == 'padded' else layout}, {passes}"
        self.child, self._layout, self.streams = child, layout, streams

    def measure(self, name: str, concurrency: int, seconds: float, first: int) -> Measure:
        job = {"name": name, "in_flight": concurrency, "layout": self._layout, "streams": self.streams, "first": first}
        self._ask({**job, "seconds": _WARM_S})
        before = self.child.cpu_s()
        result = self._ask({**job, "seconds": seconds})
        return _measured(name, result, len(result["indexes"]), self.child.cpu_s() - before, 0.0)

    def embed(self, text: str) -> Vector:
        return np.array(self._ask({"embed": text})["vector"], dtype=np.float32)

    def _ask(self, job: dict[str, Any]) -> dict[str, Any]:
        self.child.say(job)
        answer: dict[str, Any] = self.child.hear()
        return answer


def start_server(stack: ExitStack, folder: Path, options: Sequence[str] = ()) -> tuple[Child, int]:
    """This server, on its way up: (process, port). Leading options NAME=VALUE are environment variables."""
    variables = dict(option.split("=", 1) for option in options if not option.startswith("-") and "=" in option)
    flags = [option for option in options if option not in {f"{k}={v}" for k, v in variables.items()}]
    ports = folder / f"ports-{time.monotonic_ns()}"
    command = [AS_INSTALLED, "modelserve", "serve", "--model_dir", str(texts.model_dir()), "--model_name", MODEL]
    command += ["--host", "127.0.0.1", "--http_port", "0", "--grpc_port", "0", "--log_level", "warning", *flags]
    child = stack.enter_context(
        Child(
            command,
            folder=folder,
            environment={**variables, **only_the_product(), "MODELSERVE_PORTS_FILE": str(ports)},
        )
    )
    child.wait(ports.exists)
    return child, json.loads(ports.read_text())["http_port"]


@functools.cache
def only_the_product() -> dict[str, str]:
    """The variable that tells `benchmarks.as_installed` what to hide."""
    return {VARIABLE: ",".join(hidden())}


def start_naive(stack: ExitStack, folder: Path) -> tuple[Child, int]:
    """The naive server, on its way up: (process, port)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    command = ["uvicorn", "benchmarks.naive:app", "--port", str(port), "--loop", "uvloop", "--http", "httptools"]
    return stack.enter_context(Child([*command, "--no-access-log"], folder=folder)), port


def start_engine(stack: ExitStack, folder: Path) -> Child:
    """The engine's process, on its way up; its first line says that it is ready."""
    allocator = {"GLIBC_TUNABLES": tunables(os.environ.get("GLIBC_TUNABLES", ""))}  # as the server's command does
    return stack.enter_context(Child(["benchmarks.engine"], folder=folder, environment=allocator))


def get(port: int, path: str) -> int | None:
    """The status of a GET on a connection of its own; None when nobody listens yet."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except ConnectionError:
        return None
    finally:
        connection.close()


def ready(port: int, path: str = "/v2/health/ready") -> bool:
    """Whether `path` answers 200."""
    return get(port, path) == 200


def percentile(values: Sequence[float], part: float) -> float:
    """The smallest value that at least this part of the values does not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, -int(-part * len(ordered) // 1) - 1)]


def _measured(name: str, result: Mapping[str, Any], answered: int, cpu: float, client_cpu: float) -> Measure:
    lengths, lasted, latencies = _lengths(name), result["lasted_s"], result["latencies_ms"]
    return Measure(
        requests_per_s=answered / result["seconds"],
        p50_ms=percentile(latencies, 0.5),
        p99_ms=percentile(latencies, 0.99),
        tokens_per_cpu_s=sum(lengths[i] for i in result["indexes"]) / cpu,
        cores=cpu / lasted,
        client_cores=client_cpu / lasted,
    )


@functools.cache
def _lengths(name: str) -> list[int]:
    return texts.lengths(texts.read(name))
