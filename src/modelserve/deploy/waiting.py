"""Waits for a run until its model answers, and shows a person how far it is. Blocking."""

from __future__ import annotations

import sys
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from modelserve.deploy import states
from modelserve.errors import EntityNotFound, RunFailed, TargetRefused, TargetUnreachable, WaitTimeout

if TYPE_CHECKING:
    from modelserve.deploy.run import Run

_SILENT_S = 30.0
"""For a cluster that was just restarted, or a network that is gone for a moment."""


def wait(run: Run, timeout_s: float, poll_s: float, show: bool) -> None:
    """Until it is RUNNING. Raises RunFailed, WaitTimeout."""
    deadline = time.monotonic() + timeout_s
    heard = time.monotonic()
    shows = _Bar() if show and sys.stderr.isatty() else _Lines() if show else nullcontext()
    with shows as shown, run._target.changes(run._record) as changes:
        while True:
            try:
                run.refresh()
                heard = time.monotonic()
            except EntityNotFound as error:
                raise RunFailed(f"the run {run.id} was deleted") from error
            except (TargetUnreachable, TargetRefused) as error:
                if isinstance(error, TargetRefused) and not error.is_passing:
                    raise
                if time.monotonic() >= min(heard + _SILENT_S, deadline):
                    raise
                changes.wait(poll_s, max(0.0, deadline - time.monotonic()))
                continue  # what the store says is old
            stage, fraction = run.progress
            if shown is not None:
                shown.tell(run, stage, fraction)
            if run.state == "RUNNING":
                return
            message = run.status.message or ""
            if run.state in states.ENDED or run.state in ("STOP", "DELETING"):
                raise RunFailed(f"the run {run.id} is {run.state}" + (f": {message}" if message else ""))
            if time.monotonic() >= deadline:
                far = f", {stage} {fraction:.0%}" if stage else ""
                raise WaitTimeout(f"the run {run.id} is still {run.state} after {timeout_s:g} s{far}")
            changes.wait(poll_s, max(0.0, deadline - time.monotonic()))


class _Lines:
    """A line for each state and stage, where nobody looks at a bar: notebooks, logs."""

    def __init__(self) -> None:
        self._said = ""

    def __enter__(self) -> _Lines:
        return self

    def __exit__(self, *error: object) -> None: ...

    def tell(self, run: Run, stage: str, fraction: float) -> None:
        line = f"{run.state} {stage}".strip() if run.state != "RUNNING" else f"RUNNING at {run.url}"
        if line != self._said:
            self._said = line
            print(line, file=sys.stderr, flush=True)


class _Bar:
    """A bar on a terminal, gone when it is full."""

    def __enter__(self) -> _Bar:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

        columns: list[Any] = [TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeElapsedColumn()]
        self._bar = Progress(*columns, console=Console(stderr=True), transient=True)
        self._bar.__enter__()
        self._task = self._bar.add_task("", total=1.0)
        return self

    def __exit__(self, *error: Any) -> None:
        self._bar.__exit__(*error)

    def tell(self, run: Run, stage: str, fraction: float) -> None:
        self._bar.update(self._task, completed=fraction, description=f"{run.state} {stage}".strip())
