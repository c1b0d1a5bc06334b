"""The commands that deal with runs: run, runs, logs, invoke, stop, resume, rm, wait, functions, secrets, completion.

Knows how they are typed and what they print; what they do is the SDK's, imported when a command runs. `--json` prints
one JSON value for scripts; tables and bars are for people.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from modelserve.errors import ConfigError, EntityNotFound
from modelserve.listing import age, mebibytes, number, print_json, table
from modelserve.run_line import DEFAULT_PROJECT, OWN, parse, seconds

if TYPE_CHECKING:
    from modelserve.deploy.run import Run

_FILES = (".pkl", ".pickle", ".joblib", ".skops")


class RunCommand(click.Command):
    """`run` takes every parameter of a run and every flag of the server, which are tables elsewhere."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and (not args or any(word in ctx.help_option_names for word in args)):
            click.echo(ctx.get_help())
            ctx.exit(0 if args else 2)
        ctx.params["argv"] = args
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["NAME|PATH", "[--flag value]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from modelserve.deploy.parameters import POD

        with formatter.section("Options"):
            formatter.write_dl(
                [(f"--{name} {text.split('  ')[0]}".strip(), text.split("  ")[1]) for name, text in OWN.items()]
            )
        with formatter.section("Parameters of the run"):
            formatter.write_dl([(f"--{row.name}", row.help) for row in POD if row.name != "path"])
        with formatter.section("Flags of the server"):
            formatter.write_text("Every flag of `modelserve serve`: see `modelserve serve --help`.")


@click.command(cls=RunCommand)
def run(argv: list[str]) -> int:
    """Serve a model as a run that outlives this command and is found from any other.

    \b
    modelserve run hf://google-bert/bert-base-uncased --detach
    modelserve run ./model --model_name bert --replicas 2 --resources cpu=2,mem=4Gi
    modelserve run bert --env HF_HUB_OFFLINE=1 --return_probabilities
    """
    what, own, parameters = parse(argv)
    from modelserve.deploy import catalog

    function = _function(catalog, what, own)
    made = function.run(action="serve", target=own.get("target"), **parameters)
    waited = {"timeout": seconds(own["timeout"])} if "timeout" in own else {}
    if own.get("detach") and own.get("no_wait"):
        return _tell(made, own)
    try:
        made.wait(log_info=not own.get("json"), **waited)
        if own.get("detach"):
            return _tell(made, own)
        _tell(made, own)
        for line in made.logs(follow=True):
            click.echo(line)
    except KeyboardInterrupt:
        if own.get("detach"):
            raise
    finally:
        if not own.get("detach"):
            made.stop()
    return 0


@click.command()
@click.option("--project", help="Only this project's.")
@click.option("--state", help="Only those in this state.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def runs(project: str | None, state: str | None, as_json: bool) -> int:
    """List runs, newest first."""
    from modelserve.deploy import catalog

    rows = [_row(one) for one in catalog.list_runs(project, state=state)]
    if as_json:
        return print_json(rows)
    table(
        ["name", "state", "url", "age", "cpu", "memory", "requests/s", "id"],
        [
            [
                row["name"],
                row["state"],
                row["url"] or "",
                age(row["created"]),
                number(row["cpu"]),
                mebibytes(row["memory_bytes"]),
                number(row["requests_per_s"]),
                row["id"][:12],
            ]
            for row in rows
        ],
        "no runs; start one with: modelserve run hf://google-bert/bert-base-uncased",
    )
    for row in rows:
        if row["state"] == "ERROR" and row["message"]:
            click.echo(f"{row['id'][:12]}: {row['message'].splitlines()[0]}", err=True)
    return 0


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("-f", "--follow", is_flag=True, help="Go on until the run has ended.")
@click.option("--tail", type=click.IntRange(min=0), help="Only the last lines.")
@click.option("--json", "as_json", is_flag=True, help="One JSON text a line.")
def logs(run_name: str, follow: bool, tail: int | None, as_json: bool) -> int:
    """Print a run's log. RUN is an id, the first characters of one, a key, or a function's name."""
    found = _find(run_name)
    lines: Iterable[str] = found.logs(tail=tail, follow=True) if follow else found.logs(tail=tail).splitlines()
    for line in lines:
        click.echo(json.dumps(line) if as_json else line)
    return 0


@click.command()
@click.argument("run_name", metavar="RUN")
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("--body", help="A request's JSON body instead of texts; @FILE reads it, - is standard input.")
@click.option("--path", help="Another route than V2's infer, with --body or alone.")
@click.option("--method", help="GET or POST; by the body when not given.")
@click.option("--json", "as_json", is_flag=True, help="One line.")
def invoke(
    run_name: str, texts: tuple[str, ...], body: str | None, path: str | None, method: str | None, as_json: bool
) -> int:
    """Ask a run: texts get the model's answers, --body and --path any route."""
    found = _find(run_name)
    if texts and (body or path):
        raise click.UsageError("give texts, or --body and --path")
    if not texts and body is None and path is None:
        raise click.UsageError("give texts to ask the model, or --body or --path")
    if texts:
        return print_json(found.predict(list(texts)), compact=as_json)
    request: dict[str, Any] = {"path": path, "method": method}
    if body is not None:
        request |= {"content": _body(body), "headers": {"content-type": "application/json"}}
    response = found.invoke(**request)
    try:
        print_json(response.json(), compact=as_json)
    except ValueError:
        click.echo(response.text)
    return 0 if response.is_success else 1


@click.command()
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stop(run_names: tuple[str, ...], as_json: bool) -> int:
    """Stop runs: requests in flight are answered first."""
    return _each(run_names, lambda one: one.stop(), as_json)


@click.command()
@click.argument("run_names", metavar="RUN...", nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def resume(run_names: tuple[str, ...], as_json: bool) -> int:
    """Start stopped or failed runs again, on the ports that they had."""
    return _each(run_names, lambda one: one.resume(wait=True, log_info=not as_json), as_json)


@click.command()
@click.argument("run_names", metavar="RUN...", nargs=-1)
@click.option("--stopped", is_flag=True, help="Every run that is STOPPED or ERROR.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def rm(run_names: tuple[str, ...], stopped: bool, as_json: bool) -> int:
    """Stop runs and remove all that is kept of them."""
    from modelserve.deploy import catalog

    if not run_names and not stopped:
        raise click.UsageError("give runs, or --stopped")
    names = list(run_names)
    if stopped:
        names += [one.id for one in catalog.list_runs() if one.state in ("STOPPED", "ERROR")]
    return _each(names, lambda one: one.delete(), as_json)


@click.command()
@click.argument("run_name", metavar="RUN")
@click.option("--timeout", type=float, default=600.0, show_default=True, help="Seconds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def wait(run_name: str, timeout: float, as_json: bool) -> int:
    """Wait until a run's model answers."""
    found = _find(run_name).wait(timeout=timeout, log_info=not as_json)
    return print_json(_row(found)) if as_json else 0


@click.command()
@click.option("--project", help="Only this project's.")
@click.option("--all", "every", is_flag=True, help="Every version.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def functions(project: str | None, every: bool, as_json: bool) -> int:
    """List functions, newest first."""
    from modelserve.deploy import catalog

    found = catalog.list_functions(project, versions="all" if every else "latest")
    if as_json:
        return print_json([one.to_dict() for one in found])
    rows = [[o.name, o.kind, o.spec.path, o.project, age(o.metadata.created), o.id[:12]] for o in found]
    table(["name", "kind", "path", "project", "age", "version"], rows, "no functions yet")
    return 0


@click.group()
def secrets() -> None:
    """A project's secrets: names are listed, values never shown."""


@secrets.command("ls")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def secrets_ls(project: str, as_json: bool) -> int:
    """List their names."""
    from modelserve.deploy import catalog

    names = catalog.get_project(project).list_secrets()
    if as_json:
        return print_json(names)
    table(["name"], [[name] for name in names], f"no secrets in the project {project}")
    return 0


@secrets.command("set")
@click.argument("name")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
def secrets_set(name: str, project: str) -> int:
    """Keep a value, typed at the prompt or read from standard input: never as an argument, which others can see."""
    from modelserve.deploy import catalog

    value = click.prompt(name, hide_input=True) if sys.stdin.isatty() else sys.stdin.read().rstrip("\n")
    catalog.get_or_create_project(project).new_secret(name, value)
    return 0


@secrets.command("rm")
@click.argument("name")
@click.option("--project", default=DEFAULT_PROJECT, show_default=True)
def secrets_rm(name: str, project: str) -> int:
    """Forget a value."""
    from modelserve.deploy import catalog

    found = catalog.get_project(project)
    if name not in found.list_secrets():
        raise EntityNotFound(f"the project {project} has no secret {name}")
    found.delete_secret(name)
    return 0


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a script that completes commands in your shell: eval "$(modelserve completion bash)"."""
    from click.shell_completion import get_completion_class

    context = click.get_current_context()
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    click.echo(kind(context.find_root().command, {}, "modelserve", "_MODELSERVE_COMPLETE").source())
    return 0


@click.command(hidden=True)
@click.argument("key")
def supervise(key: str) -> int:
    """The process that keeps a local run's server; started by the SDK."""
    from modelserve.registry import load

    status: int = load("modelserve.deploy.supervise:main")(key)
    return status


COMMANDS = (run, runs, logs, invoke, stop, resume, rm, wait, functions, secrets, completion, supervise)


def _function(catalog: Any, what: str, own: Mapping[str, Any]) -> Any:
    """The function of that name, or a new version for that path, unless the newest has it already."""
    project = own.get("project", DEFAULT_PROJECT)
    if "://" not in what and not Path(what).exists() and "/" not in what:
        return catalog.get_function(what, project)
    from modelserve.deploy import paths

    kind = own.get("kind") or ("sklearnserve" if what.lower().endswith(_FILES) else "huggingfaceserve")
    name = own.get("name") or re.sub(r"[^A-Za-z0-9._+-]+", "-", paths.title(what)).strip("-").lower() or "model"
    try:
        newest = catalog.get_function(name, project)
    except EntityNotFound:
        return catalog.new_function(project, name, kind, path=what)
    if (newest.kind, newest.spec.path) == (kind, paths.absolute(what)):
        return newest
    return catalog.new_function(project, name, kind, path=what)


def _find(name: str) -> Run:
    """A run by its id, its key, or as the newest of a function, one that is alive first."""
    from modelserve.deploy import catalog

    try:
        return catalog.get_run(name)
    except EntityNotFound:
        named = [one for one in catalog.list_runs() if _name(one) == name]
        if not named:
            raise
        return next((one for one in named if one.alive), named[0])


def _each(names: Sequence[str], act: Callable[[Run], object], as_json: bool) -> int:
    """Act on each; all are found before the first is touched."""
    found = [_find(name) for name in names]
    for one in found:
        act(one)
        if not as_json:
            click.echo(f"{one.id[:12]} {one.state}")
    return print_json([{"id": one.id, "state": one.state} for one in found]) if as_json else 0


def _name(one: Run) -> str:
    return str(one.spec.function).rpartition("/")[2].partition(":")[0]


def _row(one: Run) -> dict[str, Any]:
    usage = one.usage
    return {
        "id": one.id,
        "key": one.key,
        "project": one.project,
        "name": _name(one),
        "state": one.state,
        "message": one.status.message or "",
        "url": one.url if one.state in ("RUNNING", "PENDING") else None,
        "created": one.metadata.created,
        "cpu": usage.cpu,
        "memory_bytes": usage.memory_bytes,
        "requests_per_s": usage.requests_per_s,
    }


def _tell(one: Run, own: Mapping[str, Any]) -> int:
    if own.get("json"):
        return print_json(_row(one))
    click.echo(f"{one.id[:12]} {_name(one)} {one.state}" + (f" {one.url}" if one.url else ""))
    return 0


def _body(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--body {text}: {error.strerror}") from error
