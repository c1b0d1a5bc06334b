"""What is measured, in which order: rounds in which every contender has its turn at every cell, so that whatever else
the machine does meets all of them alike. Runs on the benchmark's main thread; knows no target and no table.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from benchmarks.child import BenchmarkError, Child
from benchmarks.contender import (
    AS_INSTALLED,
    Contender,
    Measure,
    Served,
    get,
    only_the_product,
    ready,
    start_server,
)

Cell = tuple[str, int]
"""(set of texts, concurrency)."""

PROBES_PER_S = 20


@dataclass(slots=True)
class Results:
    """Everything that was measured, a value a round."""

    cells: dict[Cell, dict[str, list[Measure]]] = field(default_factory=dict)
    live_ms: list[float] = field(default_factory=list)
    """GET /v2/health/live while the server is saturated."""
    server_start_s: list[float] = field(default_factory=list)
    """From the start of the process until ready."""
    bare_start_s: list[float] = field(default_factory=list)
    peak_mib: float = 0.0
    resident_mib: float = 0.0
    """Of the server's process tree: the most that it ever had, and what it has after the last round."""


def check_same_answers(contenders: Sequence[Contender], texts: Sequence[str]) -> float:
    """The largest difference between two contenders' vectors. Raises BenchmarkError above 1e-5."""
    worst = 0.0
    for text in texts:
        first, *others = (contender.embed(text) for contender in contenders)
        for contender, vector in zip(contenders[1:], others, strict=True):
            difference = float(abs(first - vector).max())
            if not difference <= 1e-5 or not abs(float(vector @ vector) - 1) <= 1e-4:
                raise BenchmarkError(
                    f"{contender.name} and {contenders[0].name} differ by {difference:.1e} on {text!r}"
                )
            worst = max(worst, difference)
    return worst


_ALONE = 3
"""Times as long for one caller, who gets a tenth of the answers that a crowd gets in the same time."""


def measure(
    results: Results,
    cells: Sequence[Cell],
    contenders: Callable[[Cell], Sequence[Contender]],
    *,
    number: int,
    seconds: float,
    tell: Callable[[str], None],
) -> None:
    """One round. Each round starts with another contender, and further on in the texts."""
    for name, concurrency in cells:
        turn = list(contenders((name, concurrency)))
        turn = turn[number % len(turn) :] + turn[: number % len(turn)]
        for contender in turn:
            tell(f"{name} tokens, {concurrency} in flight: {contender.name}")
            longer = _ALONE if concurrency == 1 else 1
            found = contender.measure(name, concurrency, longer * seconds, first=number * 160)
            results.cells.setdefault((name, concurrency), {}).setdefault(contender.name, []).append(found)


def probe(results: Results, server: Served, seconds: float, *, concurrency: int = 64) -> None:
    """GET /v2/health/live, a connection each time as the kubelet does, while the mixed set saturates the server."""
    failures: list[BenchmarkError] = []

    def saturate() -> None:
        try:
            server.load("mixed", concurrency, seconds, 0)
        except BenchmarkError as error:
            failures.append(error)

    load = threading.Thread(target=saturate)
    load.start()
    time.sleep(1.0)  # the load generator is up, its connections are open
    due = time.perf_counter()
    while load.is_alive():
        started = time.perf_counter()
        if (status := get(server.port, "/v2/health/live")) != 200:
            failures.append(BenchmarkError(f"GET /v2/health/live answered {status}"))
        results.live_ms.append(1000 * (time.perf_counter() - started))
        due += 1 / PROBES_PER_S
        time.sleep(max(0.0, due - time.perf_counter()))
    load.join()
    if failures:
        raise failures[0]


def time_start(results: Results, folder: Path, options: Sequence[str]) -> None:
    """Once the bare script, once the server; nothing else runs meanwhile."""
    hidden = only_the_product()
    started = time.perf_counter()
    with Child([AS_INSTALLED, "benchmarks.bare"], folder=folder, environment=hidden) as bare:
        bare.hear()
        results.bare_start_s.append(time.perf_counter() - started)
    with ExitStack() as stack:
        started = time.perf_counter()
        server, port = start_server(stack, folder, options)
        server.wait(partial(ready, port))
        results.server_start_s.append(time.perf_counter() - started)
