"""Which run RUN means on a command line, and how a run is shown. Knows no command."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

import click

from modelserve.commands.completion import offers, project_words, run_words
from modelserve.errors import ConfigError
from modelserve.listing import print_json

if TYPE_CHECKING:
    from modelserve.deploy.run import Run

_Command = TypeVar("_Command", bound=Callable[..., Any])
SHORT = 12
"""Characters of an id that tables show: enough for a million runs."""
RUN_HELP = "RUN is a function's name, a run's id or the first characters of one, or its key."

project_option = click.option("--project", shell_complete=offers(project_words), help="Only this project's.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def run_argument(command: _Command) -> _Command:
    """RUN, and --project, which narrows what it may mean."""
    argument = click.argument("name", metavar="RUN", shell_complete=offers(run_words))
    return argument(project_option(command))


def runs_argument(*, required: bool) -> Callable[[_Command], _Command]:
    """The same for several."""
    argument = click.argument("names", metavar="RUN...", nargs=-1, required=required, shell_complete=offers(run_words))
    return lambda command: argument(project_option(command))


def find(name: str, project: str | None = None) -> Run:
    """The run: a function's name means its run that is alive, else its newest. Raises EntityNotFound, and ConfigError
    where several are meant."""
    from modelserve.deploy import catalog

    named = catalog.seen([one for one in catalog.stored_runs(project) if name_of(one) == name])
    alive = [one for one in named if one.alive]
    if len(alive) > 1:
        ids = ", ".join(one.id[:SHORT] for one in alive)
        raise ConfigError(f"{name} has {len(alive)} runs that are alive; give the id of one: {ids}")
    return (alive or named)[0] if named else catalog.get_run(name, project)


def name_of(one: Run) -> str:
    """Its function's name."""
    return str(one.spec.function).rpartition("/")[2].partition(":")[0]


def row(one: Run) -> dict[str, Any]:
    """A run as --json prints it."""
    used = one.usage if one.alive else None
    return {
        "id": one.id,
        "key": one.key,
        "project": one.project,
        "name": name_of(one),
        "target": one.spec.target,
        "state": one.state,
        "message": one.status.message or "",
        "url": one.url if one.state in ("RUNNING", "PENDING") else None,
        "created": one.metadata.created,
        "cpu": used.cpu if used else None,
        "memory_bytes": used.memory_bytes if used else None,
        "requests_per_s": used.requests_per_s if used else None,
    }


def tell(one: Run, as_json: bool) -> int:
    """Print a run, as JSON or in one line."""
    if as_json:
        return print_json(row(one))
    click.echo(line(one))
    return 0


def line(one: Run) -> str:
    """A run in one line."""
    url = one.url if one.state in ("RUNNING", "PENDING") else None
    return " ".join(filter(None, [one.id[:SHORT], name_of(one), one.state, url]))
