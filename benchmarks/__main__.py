"""`make bench`: this server beside its own engine in process and a naive server, from one run on one machine.

`python -m benchmarks --help` lists the options; docs/benchmarks.md says what is measured and how. Runs on the main
thread; every child is ended when it leaves, Ctrl-C included.
"""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import date
from functools import partial
from pathlib import Path

import click
from rich.console import Console

from benchmarks import machine, report, rounds, texts
from benchmarks.contender import APIS, Contender, InProcess, Served, ready, start_engine, start_naive, start_server
from benchmarks.leaving import run
from benchmarks.rounds import Cell, Results
from benchmarks.target import verdicts
from benchmarks.wire import predict

LENGTHS = {"quick": (1, 1.5, 2, 5.0), "usual": (4, 1.5, 3, 8.0), "full": (5, 4.0, 5, 20.0)}
"""(rounds, seconds a measurement, starts, seconds of probing a round)."""
OTHER_APIS_AT: Cell = ("16", 32)
"""Where the other APIs are measured too."""
BUSY = 0.05


@click.command(help=__doc__)
@click.option("--quick", "length", flag_value="quick", help="One short round.")
@click.option("--full", "length", flag_value="full", help="More and longer rounds.")
@click.option("--only", default="server,engine,naive,live,start", show_default=True, help="What to measure.")
@click.option("--texts", "sets", default=",".join(texts.SETS), show_default=True, help="Sets of texts.")
@click.option("--concurrency", default="1,8,32,64", show_default=True, help="Requests in flight.")
@click.option(
    "--server-args",
    multiple=True,
    help="Options of the server, NAME=VALUE for its environment; give it again to compare. The first one is judged.",
)
@click.option("--all", "everything", is_flag=True, help="Show every variant of the engine and of the naive server.")
@click.option("--record", is_flag=True, help="Write the tables into docs/benchmarks.md.")
@click.option("--strict", is_flag=True, help="Exit with 1 when a target is missed.")
def main(
    length: str | None,
    only: str,
    sets: str,
    concurrency: str,
    server_args: tuple[str, ...],
    everything: bool,
    record: bool,
    strict: bool,
) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    wanted = set(only.split(","))
    cells = [(name, int(n)) for name in sets.split(",") for n in concurrency.split(",")]
    number, seconds, starts, probing = LENGTHS[length or "usual"]
    variants = list(server_args) or [""]
    results, others, load = Results(), machine.Others(), os.getloadavg()[1]
    with tempfile.TemporaryDirectory() as directory, console.status("") as status:
        folder = Path(directory)

        def tell(text: str) -> None:
            if console.is_terminal:
                status.update(text)

        if "start" in wanted:
            for turn in range(starts):
                tell(f"start {turn + 1} of {starts}")
                rounds.time_start(results, folder, shlex.split(variants[0]))
        with ExitStack() as stack:
            servers, usual, others_apis = _contenders(stack, folder, wanted, variants, tell)
            if len(contenders := [*servers, *others_apis, *usual]) > 1:
                worst = rounds.check_same_answers(contenders, [texts.read(name)[0] for name in texts.SETS])
                console.print(f"All {len(contenders)} give the same vectors, to {worst:.1e}.", style="dim")

            def turn_of(cell: Cell) -> list[Contender]:
                alone = [c for c in usual if not (isinstance(c, InProcess) and cell[1] < c.streams)]
                return [*servers, *(others_apis if cell == OTHER_APIS_AT else []), *alone]

            for turn in range(number if contenders else 0):
                console.print(f"{time.strftime('%H:%M:%S')} round {turn + 1} of {number}", style="dim")
                rounds.measure(results, cells, turn_of, number=turn, seconds=seconds, tell=tell)
                if servers and "live" in wanted:
                    tell("probing /v2/health/live")
                    rounds.probe(results, servers[0], probing)
            if servers:
                child = servers[0].child
                results.peak_mib, results.resident_mib = child.peak_mib(), child.resident_mib()
    found = verdicts(results, servers[0].name if servers else "")
    header = _header(others.share(), load, shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]))
    report.show(console, results, found, header, everything)
    if record:
        report.record(report.markdown(results, found, header))
        console.print(f"written to {report.PAGE}")
    if strict and any(verdict.met is False for verdict in found):
        sys.exit(1)


def _contenders(
    stack: ExitStack, folder: Path, wanted: set[str], variants: Sequence[str], tell: Callable[[str], None]
) -> tuple[list[Served], list[Contender], list[Served]]:
    """(this server's variants over V1, engine and naive server, this server's other APIs), all of them ready."""
    tell("starting everything")
    servers: list[Served] = []
    usual: list[Contender] = []
    other_apis: list[Served] = []
    first, *rest = APIS.items()
    if "server" in wanted:
        for variant in variants:
            child, port = start_server(stack, folder, shlex.split(variant))
            child.wait(partial(ready, port))
            name = f"this server [{variant}]" if variant else "this server"
            servers.append(Served(f"{name}, {first[0]}", child, port, first[1]))
        other_apis = [Served(f"this server, {name}", servers[0].child, servers[0].port, api) for name, api in rest]
    if "engine" in wanted:
        engine = start_engine(stack, folder)
        engine.hear()
        cores = len(os.sched_getaffinity(0))
        usual += [InProcess(engine, layout, n) for layout in ("packed", "padded") for n in dict.fromkeys((1, cores))]
    if "naive" in wanted:
        child, port = start_naive(stack, folder)
        child.wait(partial(ready, port, "/docs"))
        words = {"def": "/def", "async def": "/async"}
        usual += [Served(f"naive, {word}", child, port, predict(path)) for word, path in words.items()]
    return servers, usual, other_apis


def _header(others: tuple[float, float], load: float, command: str) -> list[str]:
    processes, stolen = others
    known = machine.describe()
    lines = [f"{date.today().isoformat()}, `{command}`", known["processor"] + ", " + known["memory"], known["system"]]
    lines += [known["versions"]]
    busy = "**the machine was busy**: " if max(processes, stolen) > BUSY else ""
    return [*lines, f"{busy}other processes took {processes:.0%} of it, its host {stolen:.0%}; load before {load:.1f}"]


if __name__ == "__main__":
    run(main)
