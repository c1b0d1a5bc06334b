"""The commands that change a run in a cluster while it serves: scale, update."""

from __future__ import annotations

import click

from modelserve.commands.find import RUN_HELP, find, json_option, run_argument, tell
from modelserve.commands.run import RunCommand
from modelserve.errors import ConfigError
from modelserve.listing import print_json
from modelserve.run_line import DEFAULT_PROJECT, UPDATE_OPTIONS, WAIT_S, parse


@click.command(short_help="Change how many pods a run has.", epilog=RUN_HELP)
@run_argument
@click.argument("replicas", type=click.IntRange(min=1))
@click.option("--no-wait", is_flag=True, help="Return at once.")
@click.option(
    "--timeout", type=click.FloatRange(min=0), default=WAIT_S, show_default=True, metavar="N", help="Seconds."
)
@json_option
def scale(name: str, project: str | None, replicas: int, no_wait: bool, timeout: float, as_json: bool) -> int:
    """Change how many pods a run in a cluster has, and wait until all of them answer.

    \b
    modelserve scale bert 3
    """
    found = find(name, project)
    found.scale(replicas, wait=not no_wait, timeout=timeout, log_info=not as_json)
    return tell(found, as_json)


class UpdateCommand(RunCommand):
    """The parameters of `run`, for a run that there is."""

    options = UPDATE_OPTIONS

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["RUN", "--flag value..."]


@click.command(cls=UpdateCommand, short_help="Change a run while it serves.", epilog=RUN_HELP)
def update(argv: list[str]) -> int:
    """Change parameters of a run in a cluster: a rolling update, in which a former pod ends when a new one answers.

    Every parameter of `modelserve run` may be given; those that are not stay as they are. One is given whole: --env,
    --secret and --resources take the place of all that the run has.

    \b
    modelserve update bert --resources cpu=4,mem=8Gi
    modelserve update bert --image registry.example/modelserve:0.2.0 --dry-run
    """
    asked = parse(argv, UPDATE_OPTIONS)
    if not asked.parameters:
        raise ConfigError("no parameter is given that would change; `modelserve update --help` lists what there is")
    found = find(asked.what, None if asked.project == DEFAULT_PROJECT else asked.project)
    if asked.dry_run:
        return print_json(found.update(dry_run=True, force=asked.force, **asked.parameters))
    wait = not asked.no_wait
    found.update(wait=wait, timeout=asked.timeout, log_info=not asked.json, force=asked.force, **asked.parameters)
    return tell(found, asked.json)
