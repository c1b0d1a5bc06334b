"""The commands for runs that are there: runs, wait, stop, resume, rm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, get_args

import click

from modelserve.commands.find import (
    RUN_HELP,
    SHORT,
    find,
    json_option,
    line,
    project_option,
    row,
    run_argument,
    runs_argument,
)
from modelserve.deploy.states import State
from modelserve.errors import ModelServeError, RunFailed
from modelserve.listing import age, mebibytes, number, print_json, table
from modelserve.run_line import WAIT_S

if TYPE_CHECKING:
    from modelserve.deploy.run import Run

_HEAD = ["name", "state", "url", "age", "cpu", "memory", "requests/s", "id"]
_timeout = click.option(
    "--timeout", type=click.FloatRange(min=0), default=WAIT_S, show_default=True, metavar="N", help="Seconds to wait."
)


@click.command()
@project_option
@click.option("--state", type=click.Choice(get_args(State), case_sensitive=False), help="Only those in this state.")
@click.option("--target", help="Only those on this target: local, or kubernetes.")
@click.option("--kubeconfig", metavar="FILE", help="Which clusters there are, with --target kubernetes.")
@click.option("--context", metavar="TEXT", help="Which of them; the current one when not given.")
@click.option("--namespace", metavar="TEXT", help="Where in it; the context's when not given.")
@json_option
def runs(project: str | None, state: str | None, target: str | None, as_json: bool, **place: str | None) -> int:
    """List runs: state, url, age, and what they use and do.

    With --target kubernetes the cluster is asked for runs that are not in the store, too: those of another machine, or
    all of them when the store is lost. They are in the store from then on.
    """
    from modelserve.deploy import catalog

    where = {name: value for name, value in place.items() if value is not None}
    found = [row(one) for one in catalog.list_runs(project, state=state, target=target, **where)]
    if as_json:
        return print_json(found)
    further = [name for name in ("target", "project") if len({one[name] for one in found}) > 1]
    rows = [
        [
            one["name"],
            one["state"],
            one["url"] or "",
            age(one["created"]),
            number(one["cpu"]),
            mebibytes(one["memory_bytes"]),
            number(one["requests_per_s"]),
            one["id"][:SHORT],
            *(one[name] for name in further),
        ]
        for one in found
    ]
    none = "no runs; `modelserve run hf://ORG/NAME --detach` starts one"
    table([*_HEAD, *further], rows, none if target is None else f"no runs on the target {target}")
    for one in found:
        if one["state"] in ("ERROR", "RUNNING") and one["message"]:
            said = one["message"].splitlines()[0].removesuffix("; its last lines:")
            click.echo(f"{one['id'][:SHORT]} {one['name']}: {said}", err=True)
    return 0


@click.command(short_help="Wait until a run's model answers.", epilog=RUN_HELP)
@run_argument
@_timeout
@json_option
def wait(name: str, project: str | None, timeout: float, as_json: bool) -> int:
    """Wait until a run's model answers: exit status 1 when the run fails or is stopped, 4 when the time is up."""
    found = find(name, project).wait(timeout=timeout, log_info=not as_json)
    return print_json(row(found)) if as_json else 0


@click.command(short_help="Stop runs; requests in flight are answered first.", epilog=RUN_HELP)
@runs_argument(required=False)
@click.option("--all", "every", is_flag=True, help="Every run that is alive.")
@click.option("--timeout", type=click.FloatRange(min=0), metavar="N", help="Seconds; then it is ended by force.")
@json_option
def stop(names: tuple[str, ...], project: str | None, every: bool, timeout: float | None, as_json: bool) -> int:
    """Stop runs: requests in flight are answered first."""
    found = _chosen(names, project, lambda one: every and one.alive, "" if every else "--all")
    return _each(found, lambda one: one.stop(timeout), as_json)


@click.command(short_help="Start stopped or failed runs again.", epilog=RUN_HELP)
@runs_argument(required=True)
@click.option("--no-wait", is_flag=True, help="Return at once.")
@_timeout
@json_option
def resume(names: tuple[str, ...], project: str | None, no_wait: bool, timeout: float, as_json: bool) -> int:
    """Start stopped or failed runs again, on the ports that they had."""
    found = [find(name, project) for name in names]
    return _each(found, lambda one: one.resume(wait=not no_wait, timeout=timeout, log_info=not as_json), as_json)


@click.command(short_help="Stop runs and remove all that is kept of them.", epilog=RUN_HELP)
@runs_argument(required=False)
@click.option("--stopped", is_flag=True, help="Every run that is STOPPED or ERROR.")
@click.option("--all", "every", is_flag=True, help="Every run.")
@click.option("--forget", is_flag=True, help="Where a cluster cannot be asked any more: only what is kept here.")
@json_option
def rm(names: tuple[str, ...], project: str | None, stopped: bool, every: bool, forget: bool, as_json: bool) -> int:
    """Stop runs and remove all that is kept of them, their logs too."""
    ended = ("STOPPED", "ERROR") if stopped else ()
    missing = "" if stopped or every else "--stopped or --all"
    found = _chosen(names, project, lambda one: every or one.state in ended, missing)
    return _each(found, lambda one: one.delete(forget=forget), as_json)


def _chosen(names: Sequence[str], project: str | None, also: Callable[[Run], bool], missing: str) -> list[Run]:
    """Those that are named and those that `also` chooses; all are found before the first is touched."""
    from modelserve.deploy import catalog

    if not names and missing:
        raise click.UsageError(f"give runs, or {missing}")
    found = [find(name, project) for name in names]
    if not missing:
        found += [one for one in catalog.list_runs(project) if also(one)]
    return found


def _each(found: Sequence[Run], act: Callable[[Run], object], as_json: bool) -> int:
    """Act on each once, also when another fails. Raises that failure, or RunFailed for several."""
    once = list({one.id: one for one in found}.values())
    failures: list[ModelServeError] = []
    for one in once:
        try:
            act(one)
        except ModelServeError as error:
            failures.append(error)
        else:
            if not as_json:
                click.echo(line(one))
    if as_json:
        print_json([{"id": one.id, "key": one.key, "state": one.state} for one in once])
    if len(failures) > 1:
        raise RunFailed(f"{len(failures)} of {len(once)} failed: " + "; ".join(error.message for error in failures))
    if failures:
        raise failures[0]
    return 0
