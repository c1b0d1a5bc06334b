"""`modelserve export`: a model for another server. How it is typed, and what is told meanwhile."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from modelserve import flags
from modelserve.commands.lengthy import ended_by_sigterm, named, told, trusted, which_model
from modelserve.environment import environment_defaults
from modelserve.listing import print_json
from modelserve.registry import TASKS, load


@click.command(short_help="Export an encoder for Triton, as ONNX.")
@click.option("--format", "form", type=click.Choice(["onnx"]), required=True, help="Of the file that Triton runs.")
@which_model
@click.option("--task", type=click.Choice(list(TASKS)), help="The one that the model was made for when not given.")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    help="Triton's model repository; made where there is none.",
)
@click.option(
    "--model_name",
    "--model-name",
    metavar="NAME",
    default="model",
    show_default=True,
    help="The model's directory in the repository, and --model_name of whoever asks it.",
)
@click.option(
    "--max_batch_size",
    "--max-batch-size",
    type=click.IntRange(min=1),
    default=32,
    show_default=True,
    metavar="N",
    help="Most texts of one request.",
)
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float16"]),
    default="float32",
    show_default=True,
    help="Of the weights; float16 is half as large, for GPUs. Answers are float32.",
)
@click.option(
    "--device",
    type=click.Choice(["auto", "cpu", "cuda"]),
    default="auto",
    show_default=True,
    help="Where Triton shall run it; auto leaves that to Triton.",
)
@click.option("--overwrite", is_flag=True, help="Replace the model of that name in the repository.")
@trusted
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    form: str,
    model_id: str | None,
    model_revision: str | None,
    model_dir: str | None,
    task: str | None,
    output: Path,
    model_name: str,
    max_batch_size: int,
    dtype: str,
    device: str,
    overwrite: bool,
    allow_pickle: bool,
    trust_remote_code: bool,
    as_json: bool,
) -> int:
    """Export an encoder into a Triton model repository, and check that it answers the same.

    \b
    modelserve export --format onnx --model_dir ./model --output ./repo --model_name bert
    tritonserver --model-repository ./repo
    modelserve serve --model_dir ./model --model_name bert --predictor_host localhost:8000

    Triton runs the tensors, `modelserve serve` reads the texts and makes the answers. Needs modelserve[onnx].
    """
    which = named(model_id, model_revision, model_dir)
    said: dict[str, Any] = {
        "model_name": model_name,
        "dtype": dtype,
        "allow_pickle": allow_pickle,
        "trust_remote_code": trust_remote_code,
        **({"task": task} if task else {}),
    }
    config = flags.from_keywords(**which, **said)
    environment_defaults(os.environ)
    asked = load("modelserve.runtime.export_onnx:Asked")(
        config=config, output=output.absolute(), max_batch_size=max_batch_size, instances=device, overwrite=overwrite
    )
    with told() as say, ended_by_sigterm():
        directory, record = load("modelserve.runtime.export_onnx:export")(asked, say)
    if as_json:
        known = {name: getattr(record, name) for name in record.__struct_fields__ if name != "format"}
        inputs, outputs = ([_shown(one) for one in known.pop(name)] for name in ("inputs", "outputs"))
        return print_json(
            {"directory": str(directory), "model_name": model_name, **known, "inputs": inputs, "outputs": outputs}
        )
    click.echo(
        f"{record.task}: answers to {record.texts} texts differ from transformers' by {record.deviation:.2g} at most "
        f"({record.tolerance:.2g} is allowed)",
        err=True,
    )
    click.echo(directory)
    return 0


def _shown(tensor: Any) -> dict[str, Any]:
    return {"name": tensor.name, "datatype": tensor.datatype, "dims": list(tensor.dims)}
