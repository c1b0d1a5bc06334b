"""`modelserve verify`: does the served model answer what its reference answers? How it is typed, and what is told."""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import click
from click.shell_completion import CompletionItem

from modelserve import flags
from modelserve.commands.completion import flag_words
from modelserve.commands.lengthy import ended_by_sigterm, told
from modelserve.environment import environment_defaults
from modelserve.errors import ConfigError
from modelserve.listing import print_json, table
from modelserve.registry import load


class _Command(click.Command):
    """Its own options, and every flag of `modelserve serve`, which `modelserve.flags` reads."""

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[--flag value]..."]

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        own = [option.name or "" for option in self.params if isinstance(option, click.Option)]
        names = [name for name in own if name not in ("as_json", "help")] + ["json"]
        return flag_words([*names, *(p.name for p in flags.PARAMETERS)], ctx.params.get("argv", ()), incomplete)


@click.command(
    cls=_Command,
    short_help="Compare a served model with transformers or sentence-transformers.",
    context_settings={"ignore_unknown_options": True},
    epilog="Flags of the server: those of `modelserve serve`, such as --model_id, --model_dir, --task, --backend, "
    "--dtype, --device and --predictor_host. They say which model is verified, and how it is served.",
)
@click.option("--texts", type=click.File(encoding="utf-8"), help="Texts of yours, one a line; - is standard input.")
@click.option(
    "--reference_dir",
    "--reference-dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Weights to compare with, where they are not the served model's own.",
)
@click.option(
    "--tolerance",
    type=click.FloatRange(min=0),
    metavar="X",
    help="Deviation allowed, as a share of the largest answer (of logits, of 1 where that is less); 1e-4 in float32, "
    "1e-2 in float16, 1e-1 in bfloat16 when not given.",
)
@click.option(
    "--new_tokens",
    "--new-tokens",
    type=click.IntRange(min=1),
    default=24,
    show_default=True,
    metavar="N",
    help="Tokens of each text, where the model writes.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.argument("argv", nargs=-1, type=click.UNPROCESSED)
def verify(
    texts: IO[str] | None,
    reference_dir: Path | None,
    tolerance: float | None,
    new_tokens: int,
    as_json: bool,
    argv: tuple[str, ...],
) -> int:
    """Compare a model, served as the flags say, with transformers or sentence-transformers on the same weights.

    \b
    modelserve verify --model_id sentence-transformers/all-MiniLM-L6-v2
    modelserve verify --model_dir ./model --model_name bert --predictor_host localhost:8000
    modelserve verify --model_id dslim/bert-base-NER --dtype bfloat16 --texts mine.txt

    The reference computes one text at a time, in float32 on the CPU, without padding; the served model is asked all
    texts together, and each alone. Ends with 0 where every answer is within the tolerance, with 1 where one is not.
    """
    lines = None if texts is None else _lines(texts)
    config = flags.parse(argv, os.environ)
    environment_defaults(os.environ)
    asked = load("modelserve.runtime.verification:Asked")(
        config=config, lines=lines, reference_dir=reference_dir, tolerance=tolerance, new=new_tokens
    )
    with told() as say, ended_by_sigterm():
        report = load("modelserve.runtime.verification:verify")(asked, say)
    if as_json:
        print_json(asdict(report))
    else:
        _show(report)
    return 0 if report.passed else 1


def _lines(file: IO[str]) -> tuple[str, ...]:
    try:
        return tuple(file.read().splitlines())
    except UnicodeDecodeError as error:
        raise ConfigError(f"--texts {file.name} is not UTF-8 at byte {error.start}; save it as UTF-8") from error


def _show(report: Any) -> None:
    vectors = any(one.cosine is not None for one in report.rounds)
    kind = "smallest cosine" if vectors else "same choice"
    rows = []
    for one in report.rounds:
        last = [f"{one.cosine:.9f}"] if vectors else [f"{one.same} of {one.rows}", str(one.near_ties)]
        rows.append([one.asked, str(one.texts), str(one.unlike), f"{one.largest:.2g}", f"{one.mean:.2g}", *last])
    click.echo(f"{report.model}: {report.task} by {report.backend} in {report.dtype}, against {report.reference}")
    head = ["asked", "texts", "unlike", "largest", "mean", kind, *([] if vectors else ["near-ties"])]
    table(head, rows, "")
    if report.left_out:
        click.echo(f"pairs of texts were left out: {report.left_out}")
    allowed = f"{report.allowed:.2g} is allowed (tolerance {report.tolerance:g})"
    click.echo(f"passed: {allowed}" if report.passed else f"failed: {allowed}")
