"""`modelserve convert`: a model into another backend's form. How it is typed, and what is told meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from modelserve import flags
from modelserve.commands.lengthy import ended_by_sigterm, named, told, trusted, which_model
from modelserve.environment import environment_defaults
from modelserve.listing import print_json
from modelserve.registry import load


@click.command(short_help="Convert a model that writes for a faster backend.")
@click.option("--to", type=click.Choice(["openvino"]), required=True, help="Whose form; openvino is for CPUs.")
@which_model
@click.option("--output", type=click.Path(path_type=Path), help="A new directory; the user's cache when not given.")
@click.option(
    "--weights",
    type=click.Choice(["float32", "int8"]),
    default="float32",
    show_default=True,
    help="int8 takes a quarter of the memory, and its texts differ.",
)
@click.option("--python", metavar="PROGRAM", help="Of an environment with optimum-intel; one is made when not given.")
@trusted
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
    which = named(model_id, model_revision, model_dir)
    said: dict[str, Any] = {"allow_pickle": allow_pickle, "trust_remote_code": trust_remote_code, "threads": threads}
    config = flags.from_keywords(**which, **said)
    environment_defaults(os.environ)
    asked = load("modelserve.runtime.conversion:Asked")(
        config=config, weights=weights, output=None if output is None else output.absolute(), python=python
    )
    with told() as say, ended_by_sigterm():
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
