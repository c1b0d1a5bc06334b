"""`make bench-generate`: tokens/s, time to the first token and between tokens of each backend, from one run.

SmolLM-135M's shape with random weights, prompts of 64 random tokens, 64 new tokens each, greedy, the end ignored, a
closed loop of 1, 4 and 16 callers who read streams. Beside it transformers' `generate` one request at a time, and the
least time that a step can take: the weights read once from memory. Rounds turn about; medians are shown.

A backend is named with its data type: huggingface:bfloat16. vllm takes --vllm-python; openvino a directory that
`modelserve convert` has made, which it makes itself when --converted is not given.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import date
from pathlib import Path
from statistics import median

import click
from rich.console import Console
from rich.table import Table

from benchmarks import machine, report
from benchmarks.child import BenchmarkError
from benchmarks.generate import contender, model
from benchmarks.generate.contender import Contender, Measure, Served, Stall
from benchmarks.generate.floor import bandwidth
from benchmarks.leaving import run

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
PRECISIONS = {"float32": "f32", "bfloat16": "bf16"}
"""What OpenVINO calls them."""
COLUMNS = ("what", "callers", "tokens/s", "first ms", "gap ms", "gap p99 ms", "cores")
STALL_AT = 16


@click.command(help=__doc__)
@click.option("--backends", default="huggingface:float32,huggingface:bfloat16", show_default=True)
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--callers", default="1,4,16", show_default=True)
@click.option("--rounds", default=3, show_default=True)
@click.option("--texts", "factor", default=2, show_default=True, help="Texts a measurement, for each caller.")
@click.option("--vllm-python", default="", help="The interpreter of an environment with vLLM.")
@click.option("--vllm-args", default="", help="More flags for vLLM, such as --enforce_eager.")
@click.option("--converted", default="", help="The directory that `modelserve convert --to openvino` made.")
@click.option("--record", is_flag=True, help="Write the table into docs/benchmarks.md.")
def main(
    backends: str,
    device: str,
    callers: str,
    rounds: int,
    factor: int,
    vllm_python: str,
    vllm_args: str,
    converted: str,
    record: bool,
) -> None:
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 140)
    counts = [int(count) for count in callers.split(",")]
    threads = len(os.sched_getaffinity(0))
    directory = str(model.directory())
    others, load = machine.Others(), os.getloadavg()[1]
    measured: dict[tuple[str, int], list[Measure]] = {}
    stalls: dict[str, list[Stall]] = {}
    with tempfile.TemporaryDirectory() as scratch, ExitStack() as stack:
        folder = Path(scratch)
        found: list[Contender] = []
        for backend in backends.split(","):
            name, _, dtype = backend.partition(":")
            console.print(f"{time.strftime('%H:%M:%S')} starting {name} in {dtype}", style="dim")
            flags = ["--backend", name, "--dtype", dtype]
            where = directory
            if name == "openvino":
                where = converted = converted or _convert(folder)
                found.append(contender.genai(stack, folder, where, PRECISIONS[dtype], threads))
            elif name == "vllm":
                flags += ["--vllm_python", vllm_python] if vllm_python else []
                flags += vllm_args.split()
            else:
                flags += ["--device", device]
            found.append(contender.serve(stack, folder, f"{name}, {dtype}", [*flags, "--model_dir", where]))
        said = [one.describe() for one in found if isinstance(one, Served)]
        for dtype in dict.fromkeys(backend.partition(":")[2] for backend in backends.split(",")):
            found.append(contender.one_by_one(stack, folder, dtype, device, threads))
        for one in found:
            one.measure(min(4, one.most), 4, seed=99)  # not counted: every size of block once
        for turn in range(rounds):
            console.print(f"{time.strftime('%H:%M:%S')} round {turn + 1} of {rounds}", style="dim")
            for count in counts:
                for one in found:
                    if count <= one.most:
                        seed = 1000 * turn + count
                        one.wake()
                        measured.setdefault((one.name, count), []).append(
                            one.measure(count, max(2, factor * count), seed)
                        )
            for one in found:
                if isinstance(one, Served):
                    one.wake()
                    stalls.setdefault(one.name, []).append(one.stall(STALL_AT, 7000 + turn))
    read = bandwidth(threads) if device == "cpu" else None
    header = _header(others, load)
    for line in header:
        console.print(line, style="dim")
    rows = list(_rows(measured))
    table = Table(*COLUMNS, show_edge=False)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    facts = [*said, *_facts(measured, stalls, read)]
    for fact in facts:
        console.print(fact, soft_wrap=True)
    if record:
        lines = [*(f"- {line}" for line in header), "", f"| {' | '.join(COLUMNS)} |"]
        lines += ["| --- " + "| ---: " * (len(COLUMNS) - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]
        report.record("\n".join([*lines, *(f"- {fact}" for fact in facts), ""]), "generation")
        console.print(f"written to {report.PAGE}")


def _rows(measured: dict[tuple[str, int], list[Measure]]) -> list[tuple[str, ...]]:
    return [
        (
            name,
            str(count),
            f"{_median(many, 'tokens_per_s'):.1f}",
            *(f"{_median(many, field):.0f}" for field in ("first_ms", "gap_ms", "gap_p99_ms")),
            f"{_median(many, 'cores'):.2f}",
        )
        for (name, count), many in sorted(measured.items(), key=lambda item: item[0][1])
    ]


def _median(many: list[Measure], name: str) -> float:
    """nan where it is not told."""
    values = [getattr(one, name) for one in many]
    return median(values) if None not in values else float("nan")


def _facts(
    measured: dict[tuple[str, int], list[Measure]], stalls: dict[str, list[Stall]], read: float | None
) -> list[str]:
    said = []
    most = max(count for _, count in measured)
    alone = {name.rpartition(", ")[2]: many for (name, count), many in measured.items() if name.startswith("generate")}
    for (name, count), many in measured.items():
        dtype = name.rpartition(", ")[2]
        if count == most and dtype in alone and not name.startswith("generate"):
            ratio = median(a.tokens_per_s / b.tokens_per_s for a, b in zip(many, alone[dtype], strict=True))
            said.append(f"{name}, {count} callers: {ratio:.1f} times `generate` one request at a time")
    for (name, count), many in measured.items():
        genai = f"openvino-genai in process, {PRECISIONS.get(name.rpartition(', ')[2])}"
        if name.startswith("openvino, ") and count == most and (genai, count) in measured:
            share = median(a.tokens_per_s / b.tokens_per_s for a, b in zip(many, measured[genai, count], strict=True))
            said.append(f"{name}, {count} callers: {share:.0%} of openvino-genai in process")
    for name, found in stalls.items():
        ratio = median(one.worst_ms / one.usual_ms for one in found)
        first = median(one.first_s for one in found)
        said.append(
            f"{name}: a prompt of {contender.LONG} tokens that joins {STALL_AT - 1} texts makes the longest gap "
            f"{ratio:.1f} times the usual one ({median(one.usual_ms for one in found):.0f} ms), and has its first "
            f"token after {first:.1f} s"
        )
    if read is not None:
        floors = ", ".join(f"{name} {1000 * model.WEIGHTS * size / read:.1f} ms" for name, size in BYTES.items())
        said.append(f"memory is read at {read / 1e9:.1f} GB/s: reading the weights once takes {floors}")
    return said


def _convert(folder: Path) -> str:
    """The directory of the converted model. Raises BenchmarkError."""
    made = folder / "openvino"
    command = [sys.executable, "-m", "modelserve", "convert", "--to", "openvino"]
    done = subprocess.run([*command, "--model_dir", str(model.directory()), "--output", str(made)], check=False)
    if done.returncode:
        raise BenchmarkError("the conversion failed; its words are above")
    return str(made)


def _header(others: machine.Others, load: float) -> list[str]:
    processes, stolen = others.share()
    known = machine.describe()
    return [
        f"{date.today().isoformat()}, `{' '.join(['python', '-m', 'benchmarks.generate', *sys.argv[1:]])}`",
        f"{known['processor']}, {known['memory']}, {known['system']}",
        known["versions"],
        f"other processes took {processes:.0%} of it, its host {stolen:.0%}; load before {load:.1f}",
    ]


if __name__ == "__main__":
    run(main)
