"""What a remote predictor costs: a server with the model beside one in front of it, from one run on one machine.

MiniLM's embeddings over V1: this server with the model; one in front of such a server, over V2's REST and over gRPC;
with --triton also in front of a real Triton (tests/triton.py), whose Python backend runs the same network in PyTorch.
All of them share this machine's cores, so that requests/s are what is left of these; the front's CPU for a request is
what the division itself takes. Every contender must give the same vectors.
"""

from __future__ import annotations

import os
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import astuple, dataclass
from datetime import date
from functools import partial
from pathlib import Path
from statistics import median

import click
import psutil
from rich.console import Console
from rich.table import Table

from benchmarks import machine, texts
from benchmarks.child import Child
from benchmarks.contender import APIS, MODEL, Served, percentile, ready, start_server
from benchmarks.leaving import run
from benchmarks.rounds import Cell, check_same_answers

BATCH = 32
"""Most texts of a request to the predictor."""
WARM_S = 0.5
OVER = {"v2": "REST", "grpc-v2": "gRPC"}


@dataclass(frozen=True, slots=True)
class Row:
    """One contender, one cell, one round."""

    requests_per_s: float
    p50_ms: float
    p99_ms: float
    front_cpu_ms: float
    """Of the server that was asked, for a request."""
    cpu_ms: float
    """With the predictor's."""


class Divided:
    """A server, and what tells the CPU seconds of the predictor behind it."""

    def __init__(self, served: Served, behind: Callable[[], float] = lambda: 0.0) -> None:
        self.name, self.embed, self._served, self._behind = served.name, served.embed, served, behind

    def measure(self, name: str, concurrency: int, seconds: float, first: int) -> Row:
        self._served.load(name, concurrency, WARM_S, first)
        front, behind = self._served.child.cpu_s(), self._behind()
        load = self._served.load(name, concurrency, seconds, first)
        front, behind = self._served.child.cpu_s() - front, self._behind() - behind
        each = 1000 / max(1, load["answered"])
        latencies = load["latencies_ms"]
        rate = load["answered"] / load["seconds"]
        return Row(rate, percentile(latencies, 0.5), percentile(latencies, 0.99), front * each, (front + behind) * each)


@click.command(help=__doc__)
@click.option("--triton", "with_triton", is_flag=True, help="In front of a real Triton, too.")
@click.option("--texts", "sets", default=",".join(texts.SETS), show_default=True, help="Sets of texts.")
@click.option("--concurrency", default="1,8,32", show_default=True, help="Requests in flight.")
@click.option("--rounds", "number", default=3, show_default=True)
@click.option("--seconds", default=3.0, show_default=True, help="Of each measurement.")
def main(with_triton: bool, sets: str, concurrency: str, number: int, seconds: float) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    cells = [(name, int(n)) for name in sets.split(",") for n in concurrency.split(",")]
    load, others = os.getloadavg()[1], machine.Others()
    found: dict[Cell, dict[str, list[Row]]] = {}
    with tempfile.TemporaryDirectory() as directory, ExitStack() as stack:
        contenders = _contenders(stack, Path(directory), with_triton=with_triton)
        worst = check_same_answers(contenders, [texts.read(name)[0] for name in texts.SETS])  # type: ignore[arg-type]
        console.print(f"All {len(contenders)} give the same vectors, to {worst:.1e}.", style="dim")
        for turn in range(number):
            console.print(f"{time.strftime('%H:%M:%S')} round {turn + 1} of {number}", style="dim")
            for cell in cells:
                shift = turn % len(contenders)
                for one in contenders[shift:] + contenders[:shift]:
                    row = one.measure(*cell, seconds, turn * 160)
                    found.setdefault(cell, {}).setdefault(one.name, []).append(row)
    processes, stolen = others.share()
    console.print(f"{date.today().isoformat()}, python -m benchmarks.remote {' '.join(sys.argv[1:])}")
    console.print(f"others took {processes:.0%} of the machine, its host {stolen:.0%}; load before {load:.1f}")
    console.print(_table(found, [one.name for one in contenders]))


def _contenders(stack: ExitStack, folder: Path, *, with_triton: bool) -> list[Divided]:
    name, api = next(iter(APIS.items()))

    def server(*options: str) -> tuple[Child, int]:
        child, port = start_server(stack, folder, options)
        child.wait(partial(ready, port))
        return child, port

    def front(label: str, protocol: str, host: str, behind: Callable[[], float]) -> Divided:
        flags = ("--predictor_host", host, "--predictor_protocol", protocol, "--predictor_max_batch_size", str(BATCH))
        return Divided(Served(label, *server(*flags), api), behind)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        grpc_port = free.getsockname()[1]
    found = [Divided(Served(f"here, {name}", *server(), api))]
    behind, port = server("--grpc_port", str(grpc_port))
    found.append(front("this server behind, REST", "v2", f"127.0.0.1:{port}", behind.cpu_s))
    found.append(front("this server behind, gRPC", "grpc-v2", f"127.0.0.1:{grpc_port}", behind.cpu_s))
    if with_triton:
        host, cpu_s = stack.enter_context(_triton(folder))
        found += [front(f"Triton behind, {label}", protocol, host(protocol), cpu_s) for protocol, label in OVER.items()]
    return found


@contextmanager
def _triton(folder: Path) -> Iterator[tuple[Callable[[str], str], Callable[[], float]]]:
    """A Triton with the model: where it is, by protocol, and its CPU seconds."""
    from tests.triton import triton
    from tests.triton_models import Model, write

    model = Model(MODEL, texts.model_dir(), "text_embedding", network="transformers", max_batch_size=BATCH, instances=2)
    with triton(write(folder / "repository", model)) as server:
        process = psutil.Process(server.process.pid)

        def cpu_s() -> float:
            times = [one.cpu_times() for one in [process, *process.children(recursive=True)]]
            return sum(one.user + one.system for one in times)

        yield server.host, cpu_s


def _table(found: dict[Cell, dict[str, list[Row]]], names: list[str]) -> Table:
    table = Table("texts", "in flight", "network", "requests/s", "p50 ms", "p99 ms", "front's CPU ms", "all CPU ms")
    for (name, concurrency), rows in found.items():
        for contender in names:
            medians = [median(column) for column in zip(*map(astuple, rows[contender]), strict=True)]
            table.add_row(name, str(concurrency), contender, *(f"{value:.1f}" for value in medians))
    return table


if __name__ == "__main__":
    run(main)
