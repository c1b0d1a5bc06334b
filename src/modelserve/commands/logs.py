"""`modelserve logs`."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import click

from modelserve.commands.find import RUN_HELP, find, run_argument


@click.command(short_help="Print a run's log; -f follows it.", epilog=RUN_HELP)
@run_argument
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("-n", "--tail", type=click.IntRange(min=0), metavar="N", help="Only the last N lines.")
@click.option("--since", type=click.FloatRange(min=0, min_open=True), metavar="N", help="Only the last N seconds.")
@click.option("--container", default="", metavar="NAME", help="Another container of the pods than the server's.")
@click.option("--previous", is_flag=True, help="Of the containers before, which have crashed.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON text a line.")
def logs(name: str, project: str | None, follow: bool, as_json: bool, **asked: Any) -> int:
    """Print a run's log, oldest line first.

    In a cluster it is that of all pods of the run, each line behind its pod's name where there are several; --since,
    --container and --previous are for clusters.
    """
    found = find(name, project)
    if follow:
        lines: Iterable[str] = found.logs(follow=True, **asked)
    else:
        text = found.logs(**asked)
        lines = text.split("\n") if text else []
    for line in lines:
        click.echo(json.dumps(line, ensure_ascii=False) if as_json else line)
    return 0
