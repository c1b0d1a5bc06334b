"""Which arrangement of threads gives most tokens per CPU second and per second: `python -m benchmarks.threads`.

The engine's packed passes over 64 texts that wait, as one pass on every core, as a pass on each core, and as one pass
on one core. Each arrangement runs in a process of its own, so that OpenMP's settings take effect; rounds are
interleaved, medians are printed. The loop thread stands for the event loop: pure Python work of about 20 % of a core,
whose own CPU time is not counted. Knows no server.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from typing import Any

from benchmarks.engine import Engine  # isort: skip  # sets the environment before torch is imported
from benchmarks import texts
from benchmarks.contender import percentile

CORES = len(os.sched_getaffinity(0))
ARRANGEMENTS = {(1, False): "one, on one core", (1, True): "one, on every core", (CORES, False): "one on each core"}
"""(threads that run passes, whether a pass takes every core) and its name."""
SETTINGS: dict[str, dict[str, str]] = {"default": {}, "passive": {"OMP_WAIT_POLICY": "passive"}}
TEXTS = 64
PAUSE = "loop's p99 pause ms"


def measure(kind: str, streams: int, alone: bool, loop: bool, seconds: float) -> dict[str, float]:
    """Tokens per second, per CPU second (the loop thread's own left out), and the loop's p99 pause in ms."""
    engine = Engine()
    encodings = sorted(engine.encode(texts.read(kind)[:TEXTS]), key=len)
    work = engine.cut(encodings)
    stop = threading.Event()
    done = [0] * streams
    pauses: list[float] = []
    loop_cpu = 0.0

    def stream(index: int) -> None:
        for part in itertools.islice(itertools.cycle(work), index, None):
            if stop.is_set():
                return
            engine.backend.forward(part, engine.reduce, alone=alone)
            done[index] += sum(map(len, part))

    def event_loop() -> None:
        nonlocal loop_cpu
        started = time.thread_time()
        while not stop.is_set():
            due = time.perf_counter() + 0.002
            time.sleep(0.002)
            pauses.append(1000 * (time.perf_counter() - due))
            until = time.thread_time() + 0.0005
            while time.thread_time() < until:
                json.loads('{"instances": ["a text of some words", "and another"]}')
            loop_cpu = time.thread_time() - started

    workers = [threading.Thread(target=stream, args=(i,)) for i in range(streams)]
    if loop:
        workers.append(threading.Thread(target=event_loop))
    for worker in workers:
        worker.start()
    time.sleep(1.0)
    pauses.clear()
    tokens, wall, cpu, own = sum(done), time.perf_counter(), time.process_time(), loop_cpu
    time.sleep(seconds)
    tokens, wall, own = sum(done) - tokens, time.perf_counter() - wall, loop_cpu - own
    cpu = time.process_time() - cpu - own
    stop.set()
    for worker in workers:
        worker.join()
    return {
        "tok/s": tokens / wall,
        "tok / CPU s": tokens / cpu,
        "cores": cpu / wall,
        PAUSE: percentile(pauses, 0.99) if pauses else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(**json.loads(options.one), seconds=options.seconds)))
        return
    cells = list(itertools.product(("16", "mixed"), (False, True), ARRANGEMENTS, SETTINGS))
    found: dict[Any, list[dict[str, float]]] = {cell: [] for cell in cells}
    for _ in range(options.rounds):
        for cell in cells:
            kind, loop, (streams, alone), setting = cell
            one = json.dumps({"kind": kind, "loop": loop, "streams": streams, "alone": alone})
            command = [sys.executable, "-m", "benchmarks.threads", "--seconds", str(options.seconds), "--one", one]
            child = subprocess.run(command, env=os.environ | SETTINGS[setting], stdout=subprocess.PIPE, check=True)
            found[cell].append(json.loads(child.stdout))
    print("| texts | loop thread | passes | OpenMP | tok/s | tok / CPU s | cores | loop's p99 pause ms |")
    print("| --- | --- | --- | --- | ---: | ---: | ---: | ---: |")
    for (kind, loop, arrangement, setting), rows in found.items():
        m = {name: statistics.median(row[name] for row in rows) for name in rows[0]}
        row = [kind, "yes" if loop else "no", ARRANGEMENTS[arrangement], setting]
        row += [f"{m['tok/s']:.0f}", f"{m['tok / CPU s']:.0f}", f"{m['cores']:.2f}", f"{m[PAUSE]:.1f}"]
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
