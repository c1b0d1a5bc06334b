"""The way to ready as a bar, for a person at a terminal. In logs the same is a line per stage (runtime/model.py).

Runs on the event loop.
"""

from __future__ import annotations

import asyncio

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

from modelserve.runtime.model import Model

_REDRAW_S = 0.1


async def show(model: Model) -> None:
    """Draw on stderr until the model is ready or has failed, then leave nothing behind."""
    columns = (
        TextColumn("{task.fields[name]}"),
        TextColumn("{task.fields[stage]}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=1.0, name=model.name, stage=model.stage)
        while model.stage not in ("ready", "failed", "draining", "unloaded"):
            bar.update(task, completed=model.progress, stage=model.stage)
            await asyncio.sleep(_REDRAW_S)
