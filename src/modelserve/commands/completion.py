"""`modelserve completion`, and what the shell is offered where a run, a function or a secret is meant.

A shell that completes shows nothing of an error: where the store cannot be read there is nothing to offer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import click
from click.shell_completion import CompletionItem, get_completion_class

from modelserve import flags
from modelserve.errors import ModelServeError
from modelserve.urls import shown

Offer = Callable[[click.Context], Iterable[tuple[str, str]]]
"""(word, help) for each that there is."""
Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def offers(offer: Offer) -> Complete:
    """For click's `shell_complete=`."""
    return lambda ctx, parameter, incomplete: begun(offer, ctx, incomplete)


def begun(offer: Offer, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """What begins as what is typed."""
    try:
        return [CompletionItem(word, help=text) for word, text in offer(ctx) if word.startswith(incomplete)]
    except (ModelServeError, OSError):
        return []


def flag_words(names: Iterable[str], argv: Sequence[str], incomplete: str) -> list[CompletionItem]:
    """Flags, or the values of the flag that was typed last, where these are few."""
    if incomplete.startswith("-"):
        words: Iterable[str] = (f"--{name}" for name in names)
    else:
        last = argv[-1].removeprefix("--").replace("-", "_") if argv and argv[-1].startswith("--") else ""
        words = next((one.choices for one in flags.PARAMETERS if last in one.names), ())
    return [CompletionItem(word) for word in words if word.startswith(incomplete)]


def run_words(ctx: click.Context) -> Iterable[tuple[str, str]]:
    """Names of functions with runs, and ids."""
    from modelserve.commands.find import name_of
    from modelserve.deploy import catalog

    found = catalog.stored_runs(ctx.params.get("project"))  # nobody waits for a cluster at a prompt
    yield from dict.fromkeys((name_of(one), "") for one in found)
    yield from ((one.id[:12], f"{name_of(one)} {one.state}") for one in found)


def function_words(ctx: click.Context) -> Iterable[tuple[str, str]]:
    """Names of functions."""
    from modelserve.deploy import catalog

    return dict.fromkeys((one.name, shown(one.spec.path)) for one in catalog.list_functions())


def project_words(ctx: click.Context) -> Iterable[tuple[str, str]]:
    """Names of projects."""
    from modelserve.deploy import catalog

    return [(one.name, "") for one in catalog.list_projects()]


@click.command(short_help="Print a script that completes commands in your shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print a script that completes commands, flags and runs in your shell.

    \b
    eval "$(modelserve completion bash)"               # in ~/.bashrc
    eval "$(modelserve completion zsh)"                # in ~/.zshrc
    modelserve completion fish | source                # in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None, "click knows the three shells"
    root = click.get_current_context().find_root().command
    click.echo(kind(root, {}, "modelserve", "_MODELSERVE_COMPLETE").source())
    return 0
