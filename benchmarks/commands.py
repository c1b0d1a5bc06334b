"""What a command costs before it does anything: `python -m benchmarks.commands [ROUNDS]`, medians of turns about.

An empty store in a home of its own; user and system seconds of the process stand beside the wall's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from statistics import median

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "import modelserve": ["-c", "import modelserve"],
    "import sqlalchemy": ["-c", "import sqlalchemy"],
    "modelserve --help": ["-m", "modelserve", "--help"],
    "modelserve runs": ["-m", "modelserve", "runs"],
}
MOST_MS = {"import modelserve": 150, "modelserve runs": 500}
"""What was promised."""


def main(rounds: int = 15) -> None:
    took: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    with tempfile.TemporaryDirectory() as home:
        for _ in range(rounds + 1):
            for name, words in COMMANDS.items():
                took[name].append(_timed(words, home))
    table = Table("command", "wall ms", "CPU ms", "at most", show_edge=False)
    for name, found in took.items():
        walls, cpus = zip(*found[1:], strict=True)  # the first turn read the files from disk
        most = f"{MOST_MS[name]}" if name in MOST_MS else ""
        table.add_row(name, f"{1000 * median(walls):.0f}", f"{1000 * median(cpus):.0f}", most)
    Console().print(table)


def _timed(words: list[str], home: str) -> tuple[float, float]:
    """Seconds of the clock, and of CPU."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    environment = os.environ | {"MODELSERVE_HOME": home}
    subprocess.run([sys.executable, *words], env=environment, capture_output=True, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
