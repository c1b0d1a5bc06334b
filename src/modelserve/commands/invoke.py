"""`modelserve invoke`: asks a run, in texts or in any body of its protocols."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from modelserve.commands.find import RUN_HELP, find, run_argument
from modelserve.errors import ConfigError
from modelserve.listing import print_json


@click.command(short_help="Ask a run: texts are answered in JSON.", epilog=RUN_HELP)
@run_argument
@click.argument("texts", metavar="[TEXT]...", nargs=-1)
@click.option("-p", "--parameter", "parameters", multiple=True, metavar="NAME=VALUE", help="Of the request: top_k=3.")
@click.option("--body", help="A JSON body in place of texts; @FILE reads it, - is standard input.")
@click.option("--path", help="Another route than V2's infer, with a body or alone.")
@click.option("--method", help="GET, POST, …; POST with a body when not given, GET without.")
@click.option("--json", "as_json", is_flag=True, help="Print the answer in one line.")
def invoke(
    name: str,
    project: str | None,
    texts: tuple[str, ...],
    parameters: tuple[str, ...],
    body: str | None,
    path: str | None,
    method: str | None,
    as_json: bool,
) -> int:
    """Ask a run, and print its answer as JSON.

    \b
    modelserve invoke bert "The capital of France is [MASK]." -p top_k=3
    modelserve invoke bert --body '{"inputs": [...]}'
    modelserve invoke bert --path /v2/health/ready
    """
    if texts and (body or path or method):
        raise click.UsageError("give texts, or --body, --path and --method")
    if parameters and not texts:
        raise click.UsageError("--parameter goes with texts; a body has its own parameters")
    if not texts and body is None and path is None:
        raise click.UsageError("give texts to ask the model, or --body or --path")
    given = dict(_parameter(text) for text in parameters)
    content = None if body is None else _body(body)
    found = find(name, project)
    if texts:
        return print_json(found.predict(list(texts), **given), compact=as_json)
    return _ask(found, content, path, method, as_json)


def _ask(found: Any, content: bytes | None, path: str | None, method: str | None, as_json: bool) -> int:
    from modelserve.client import checked

    request: dict[str, Any] = {"path": path, "method": method}
    if content is not None:
        request |= {"content": content, "headers": {"content-type": "application/json"}}
    response = checked(found.invoke(**request))
    try:
        return print_json(response.json(), compact=as_json)
    except ValueError:
        click.echo(response.text, nl=not response.text.endswith("\n"))
        return 0


def _parameter(text: str) -> tuple[str, Any]:
    """A value is JSON where it can be read as that, else a text."""
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise ConfigError(f"--parameter is {text!r}; it must be NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def _body(text: str) -> bytes:
    if text == "-":
        return sys.stdin.buffer.read()
    if not text.startswith("@"):
        return text.encode()
    try:
        return Path(text[1:]).read_bytes()
    except OSError as error:
        raise ConfigError(f"--body {text} cannot be read: {error.strerror}") from error
