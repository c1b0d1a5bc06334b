"""kill -9 at random moments, again and again, on one home: `python -m tests.deploy.soak 200 [seed]`.

Each round has one run in some moment of its life, kills one of those who work for it, and holds that the store is
whole, that its state tells the truth, and that no server is left without a live run. Real servers of a tiny model.
"""

from __future__ import annotations

import os
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import psutil

from modelserve.deploy import lock, notes, states
from modelserve.deploy.record import Record
from tests.deploy.runs import Runs, await_, orphans, servers

_BOUND_S = 60.0
"""For what must become true after a kill: the server of a killed supervisor drains; a busy machine is slow."""

_DRIVER = """
import sys
from tests.deploy.runs import Runs

here = Runs()
record = here.store.get("run", "p", sys.argv[1])
print("begins", flush=True)
{act}
"""
_START = "here.target.start(record)\nprint('started', flush=True)\nimport time; time.sleep(100)"
_STOP = "here.stop(record)"
_LOOK = "while True: here.now(record)"


class Soak:
    def __init__(self, here: Runs, seed: int) -> None:
        self.here = here
        self.dice = random.Random(seed)
        self.killed: Counter[str] = Counter()
        self.states: Counter[str] = Counter()
        """In which a server or a supervisor was killed."""

    def round(self, record: Record) -> Record:
        """One kill, and what must hold after it; the run that the next round has."""
        here = self.here
        found = here.now(record)
        if found.state not in states.ALIVE:
            if self.dice.random() < 0.3:
                here.target.delete(here.move(found, "DELETING"))
                here.store.delete("run", "p", found.id)
                found = here.new()
            else:
                found = here.move(found, "RESUME")
            if self.dice.random() < 0.4:
                self.kill_driver("starter", _START, found, 1.0)
            else:
                here.target.start(found)
        victim = self.dice.choice([self.kill_supervisor, self.kill_supervisor, self.kill_server, self.kill_some])
        if self.dice.random() < 0.15:
            self.kill_driver("stopper", _STOP, found, 1.0)
        elif self.dice.random() < 0.1:
            self.kill_driver("observer", _LOOK, found, 1.0)
        else:
            if self.dice.random() < 0.35:
                await_(lambda: here.now(found).state not in ("READY", "RESUME", "PENDING"), _BOUND_S)
            time.sleep(self.dice.choice([0.0, 0.05, 0.3, 1.0, 3.0]) * self.dice.random())
            self.states[here.now(found).state] += 1
            victim(found)
        self.hold(found)
        return found

    def kill_driver(self, name: str, act: str, record: Record, longest_s: float) -> None:
        """A process that does something with the run, killed while it is at it."""
        program = _DRIVER.format(act=act)
        with subprocess.Popen([sys.executable, "-c", program, record.id], stdout=subprocess.PIPE, text=True) as driver:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "begins\n"
            time.sleep(self.dice.random() ** 3 * longest_s)  # most of it is over within milliseconds
            driver.kill()
        self.killed[name] += 1

    def kill_supervisor(self, record: Record) -> None:
        note = notes.read(notes.Files(record.id).supervisor, notes.Supervisor)
        if note is not None and note.identity.signal(9):
            await_(lambda: note.identity.process() is None, _BOUND_S)  # what holds is asked of a world without it
            self.killed["supervisor"] += 1

    def kill_server(self, record: Record) -> None:
        if found := servers(record):
            found[0].kill()
            self.killed["server"] += 1

    def kill_some(self, record: Record) -> None:
        """Both, in some order."""
        kills: list[Callable[[Record], None]] = [self.kill_supervisor, self.kill_server]
        self.dice.shuffle(kills)
        for kill in kills:
            kill(record)

    def hold(self, record: Record) -> None:
        """What must be true now or soon, whoever was killed."""
        await_(lambda: self.settled(record), _BOUND_S)
        await_(lambda: not self.strays(), _BOUND_S)
        for one in self.here.store.list("run"):
            steps = [step["status"] for step in reversed(one.status["transitions"])]
            for before, after in pairwise(steps):
                assert before == after or after in states.NEXT[before], (one.id, steps)

    def settled(self, record: Record) -> bool:
        """Whether the state says that something works for the run just when something does."""
        held = lock.is_held(notes.Files(record.id).lock)
        found = self.here.now(record)
        if found.state in ("READY", "RESUME") and not held:
            return False  # whoever was to start it may still do so
        if found.state in states.ALIVE:
            return held
        return not lock.is_held(notes.Files(record.id).lock) and not servers(record)

    def strays(self) -> list[psutil.Process]:
        """Servers of this home whose run nobody keeps."""
        found = []
        for process in orphans(os.environ["MODELSERVE_HOME"]):
            try:
                ports = Path(process.environ()[notes.MARK])
            except (psutil.NoSuchProcess, KeyError):
                continue
            if not lock.is_held(ports.parent / "lock"):
                found.append(process)
        return found


def soak(kills: int, seed: int, tell: Callable[[str], None] = lambda line: None) -> Counter[str]:
    """In the home that the environment names. At the end a run is served, and then nothing is."""
    here = Runs()
    try:
        work = Soak(here, seed)
        record = here.started()
        while work.killed.total() < kills:
            record = work.round(record)
            state = here.now(record).state
            tell(f"{work.killed.total()} kills: {dict(work.killed)}; in {dict(work.states)}; now {state}")
        if here.now(record).state not in states.ALIVE - {"STOP"}:
            here.stop(record)
            here.resume(record)
        here.running(record)
        return work.killed
    finally:
        here.end()
        whole(Path(os.environ["MODELSERVE_HOME"]) / "modelserve.db")


def whole(database: Path) -> None:
    """Fails for an SQLite file that is damaged."""
    connection = sqlite3.connect(database)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    finally:
        connection.close()


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(10**6)
    print(f"seed {seed}", flush=True)
    begun = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="modelserve-soak-") as home:
        os.environ["MODELSERVE_HOME"] = home
        killed = soak(kills, seed, lambda line: print(line, flush=True))
    print(f"{killed.total()} kills in {time.monotonic() - begun:.0f} s: {dict(killed)}; nothing was left")


if __name__ == "__main__":
    main()
