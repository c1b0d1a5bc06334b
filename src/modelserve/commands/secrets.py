"""`modelserve secrets`: their names are shown, their values never."""

from __future__ import annotations

import sys
from collections.abc import Iterable

import click

from modelserve.commands.completion import offers, project_words
from modelserve.commands.find import json_option
from modelserve.errors import ConfigError, EntityNotFound
from modelserve.listing import print_json, table
from modelserve.run_line import DEFAULT_PROJECT

_project = click.option(
    "--project", shell_complete=offers(project_words), help=f"Whose they are; {DEFAULT_PROJECT!r} when not given."
)


def _secret_words(ctx: click.Context) -> Iterable[tuple[str, str]]:
    """Names of the project's secrets."""
    return [(name, "") for name in _names(_project_of(ctx))]


@click.group(invoke_without_command=True)
@_project
@json_option
@click.pass_context
def secrets(ctx: click.Context, project: str | None, as_json: bool) -> int:
    """List a project's secrets, set one, remove one."""
    if ctx.invoked_subcommand is not None:
        return 0
    wanted = project or DEFAULT_PROJECT
    names = _names(wanted)
    if as_json:
        return print_json(names)
    table(["name"], [[name] for name in names], f"no secrets in the project {wanted}")
    return 0


@secrets.command("set", short_help="Keep a value: typed at the prompt, or read from standard input.")
@click.argument("name")
@_project
@json_option
@click.pass_context
def secrets_set(ctx: click.Context, name: str, project: str | None, as_json: bool) -> int:
    """Keep a value, typed at the prompt or read from standard input: never as an argument, which others can see."""
    from modelserve.deploy import catalog

    wanted = _project_of(ctx)
    value = click.prompt(name, hide_input=True, err=True) if sys.stdin.isatty() else _from_stdin(name)
    catalog.get_or_create_project(wanted).new_secret(name, value)
    return print_json({"project": wanted, "name": name}) if as_json else 0


@secrets.command("rm")
@click.argument("name", shell_complete=offers(_secret_words))
@_project
@json_option
@click.pass_context
def secrets_rm(ctx: click.Context, name: str, project: str | None, as_json: bool) -> int:
    """Forget a value."""
    from modelserve.deploy import catalog

    wanted = _project_of(ctx)
    if name not in _names(wanted):
        raise EntityNotFound(f"the project {wanted} has no secret {name!r}")
    catalog.get_project(wanted).delete_secret(name)
    return print_json({"project": wanted, "name": name}) if as_json else 0


def _project_of(ctx: click.Context) -> str:
    """As said behind the subcommand, or before it."""
    above = ctx.parent.params if ctx.parent is not None else {}
    return ctx.params.get("project") or above.get("project") or DEFAULT_PROJECT


def _names(project: str) -> list[str]:
    """None in a default project that nobody has made yet. Raises EntityNotFound for another that is not there."""
    from modelserve.deploy import catalog

    try:
        return catalog.get_project(project).list_secrets()
    except EntityNotFound:
        if project != DEFAULT_PROJECT:
            raise
        return []


def _from_stdin(name: str) -> str:
    """Without the line end that `echo` adds. Raises ConfigError."""
    try:
        value = sys.stdin.buffer.read().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise ConfigError(f"the value of {name} is no text in UTF-8") from error
    if not value:
        raise ConfigError(f"the value of {name} is empty; it is read from standard input, or typed at a prompt")
    return value
