"""Commands that read a model and take minutes: which model, what is told meanwhile, and how SIGTERM ends them."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import click

_QUIET_S = 5.0
"""Between two lines of the same kind, where nobody sees a bar."""

_Command = TypeVar("_Command", bound=Callable[..., Any])

_WHICH = (
    click.option("--model_id", "--model-id", metavar="ID", help="Hugging Face model id."),
    click.option("--model_revision", "--model-revision", metavar="TEXT", help="Branch, tag or commit of it."),
    click.option(
        "--model_dir", "--model-dir", metavar="PATH", help="Directory of the model, or where one is (s3://…)."
    ),
)
_TRUST = (
    click.option("--allow_pickle", "--allow-pickle", is_flag=True, help="Allow weights that are pickled."),
    click.option("--trust_remote_code", "--trust-remote-code", is_flag=True, help="Allow the model's own code to run."),
)


def which_model(command: _Command) -> _Command:
    """--model_id, --model_revision and --model_dir."""
    return _with(command, _WHICH)


def trusted(command: _Command) -> _Command:
    """--allow_pickle and --trust_remote_code."""
    return _with(command, _TRUST)


def _with(command: _Command, options: tuple[Callable[[_Command], _Command], ...]) -> _Command:
    for option in reversed(options):
        command = option(command)
    return command


def named(model_id: str | None, model_revision: str | None, model_dir: str | None) -> dict[str, Any]:
    """The parameters of `Config` that say which model it is. Raises UsageError."""
    if (model_id is None) == (model_dir is None):
        raise click.UsageError("give --model_id or --model_dir")
    if model_revision is not None and model_id is None:
        raise click.UsageError("--model_revision is for --model_id")
    given = {"model_id": model_id, "model_revision": model_revision, "model_dir": model_dir}
    return {name: value for name, value in given.items() if value is not None}


@contextmanager
def ended_by_sigterm() -> Iterator[None]:
    """As by Ctrl-C: whatever it started ends too, and nothing half is left."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def told() -> Iterator[Callable[[str], None]]:
    """Where progress goes: a line that changes, for a person at a terminal; else lines, not too many."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        # This very file: what libraries write to stderr may be led elsewhere meanwhile.
        with Progress(*columns, console=Console(file=sys.stderr), transient=True) as shown:
            task = shown.add_task("", total=None)
            yield lambda text: shown.update(task, description=text)
        return
    last: dict[str, float] = {}

    def say(text: str) -> None:
        kind = text.partition(" ")[0]
        if time.monotonic() - last.get(kind, -_QUIET_S) >= _QUIET_S:
            last[kind] = time.monotonic()
            click.echo(text, err=True)

    yield say
