"""`modelserve logs`."""

from __future__ import annotations

import json
from collections.abc import Iterable

import click

from modelserve.commands.find import RUN_HELP, find, run_argument


@click.command(short_help="Print a run's log; -f follows it.", epilog=RUN_HELP)
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON text a line.")
def logs(name: str, project: str | None, follow: bool, tail: int | None, as_json: bool) -> int:
    """Print a run's log, oldest line first."""
    found = find(name, project)
    if follow:
        lines: Iterable[str] = found.logs(tail=tail, follow=True)
    else:
        text = found.logs(tail=tail)
        lines = text.split("\n") if text else []
    for line in lines:
        click.echo(json.dumps(line, ensure_ascii=False) if as_json else line)
    return 0
