"""`modelserve convert`: a model into another backend's form. How it is typed, and what is told meanwhile."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from modelserve import flags
from modelserve.environment import environment_defaults
from modelserve.listing import print_json
from modelserve.registry import load

_QUIET_S = 5.0
"""Between two lines of the same kind, where nobody sees a bar."""


@click.command(short_help="Convert a model that writes for a faster backend.")
@click.option("--to", type=click.Choice(["openvino"]), required=True, help="Whose form; openvino is for CPUs.")
@click.option("--model_id", "--model-id", metavar="ID", help="Hugging Face model id.")
@click.option("--model_revision", "--model-revision", metavar="TEXT", help="Branch, tag or commit of it.")
@click.option("--model_dir", "--model-dir", metavar="PATH", help="Directory of the model, or where one is (s3://…).")
@click.option("--output", type=click.Path(path_type=Path), help="A new directory; the user's cache when not given.")
@click.option(
    "--weights",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="int8 takes a quarter of the memory, and its texts differ.",
)
@click.option("--python", metavar="PROGRAM", help="Of an environment with optimum-intel; one is made when not given.")
@click.option("--allow_pickle", "--allow-pickle", is_flag=True, help="Allow weights that are pickled.")
@click.option("--trust_remote_code", "--trust-remote-code", is_flag=True, help="Allow the model's own code to run.")
@click.option("--threads", type=click.IntRange(min=1), metavar="N", help="CPU threads; the cores when not given.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def convert(
    to: str,
    model_id: str | None,
    model_revision: str | None,
    model_dir: str | None,
    output: Path | None,
    weights: str,
    python: str | None,
    allow_pickle: bool,
    trust_remote_code: bool,
    threads: int | None,
    as_json: bool,
) -> int:
    """Convert a model that writes into the form that another backend serves, and check that it writes the same.

    \b
    modelserve convert --to openvino --model_id HuggingFaceTB/SmolLM2-135M-Instruct
    modelserve convert --to openvino --model_dir ./model --output ./model-int8 --weights int8

    The first time an environment for the exporter is made in the user's cache, 1.5 GB. `modelserve serve` with the
    same model takes the conversion from then on; --output is served with --model_dir.
    """
    if (model_id is None) == (model_dir is None):
        raise click.UsageError("give --model_id or --model_dir")
    if model_revision is not None and model_id is None:
        raise click.UsageError("--model_revision is for --model_id")
    said: dict[str, Any] = {
        "model_id": model_id,
        "model_revision": model_revision,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
        "threads": threads,
    }
    config = flags.from_keywords(**said, **({} if model_dir is None else {"model_dir": model_dir}))
    environment_defaults(os.environ)
    asked = load("modelserve.runtime.conversion:Asked")(
        config=config, weights=weights, output=None if output is None else output.absolute(), python=python
    )
    with _told() as say, _ended_by_sigterm():
        directory, record, new = load("modelserve.runtime.conversion:convert")(asked, say)
    if as_json:
        found = {dtype: _shown(one) for dtype, one in record.deviations.items()}
        return print_json({"directory": str(directory), "new": new, "passed": record.passed, "deviations": found})
    for dtype, one in record.deviations.items():
        click.echo(
            f"{dtype}: {one.equal:.1%} of {one.tokens} tokens of {record.prompts} texts are transformers', "
            f"logits differ by {one.mean:.2g} on average, {one.largest:.2g} at most",
            err=True,
        )
    if not new:
        click.echo("it was there already", err=True)
    click.echo(directory)
    return 0


def _shown(one: Any) -> dict[str, float]:
    return {name: getattr(one, name) for name in one.__struct_fields__}


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """As by Ctrl-C: the exporter ends too, and nothing half is left."""

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextmanager
def _told() -> Iterator[Callable[[str], None]]:
    """Where progress goes: a line that changes, for a person at a terminal; else lines, not too many."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (SpinnerColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
        with Progress(*columns, console=Console(stderr=True), transient=True) as shown:
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
