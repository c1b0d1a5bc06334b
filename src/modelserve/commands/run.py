"""`modelserve run`: a path or a function becomes a run, which ends with this command, unless it is told to --detach."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from modelserve.commands.completion import begun, flag_words, function_words
from modelserve.commands.find import SHORT, tell
from modelserve.commands.named import function_of
from modelserve.errors import ConfigError, EntityNotFound, RunFailed, TargetError
from modelserve.run_line import FORMS, OPTIONS, Line, Option, names, parse

if TYPE_CHECKING:
    from modelserve.deploy.run import Run

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunCommand(click.Command):
    """`run` takes every parameter of a run and every flag of the server, which are tables elsewhere."""

    options: tuple[Option, ...] = OPTIONS

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and (not args or any(word in ctx.help_option_names for word in args)):
            click.echo(ctx.get_help(), err=not args)
            ctx.exit(0 if args else 2)
        ctx.params["argv"] = args
        return []

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["NAME|PATH", "[--flag value]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        from modelserve.deploy.parameters import POD

        with formatter.section("Options"):
            formatter.write_dl([(f"--{one.name} {one.value}".strip(), one.help) for one in self.options])
        with formatter.section("Parameters of the run"):
            formatter.write_dl([(f"--{row.name} {FORMS.get(row.name, 'TEXT')}", row.help) for row in POD])
        with formatter.section("Flags of the server"):
            formatter.write_text("Those of `modelserve serve`, such as --task, --dtype and --return_probabilities.")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = flag_words(names(self.options), ctx.params.get("argv", ()), incomplete)
        if found or incomplete.startswith("-"):
            return found
        return begun(function_words, ctx, incomplete) or [CompletionItem(incomplete, type="file")]


@click.command(cls=RunCommand, short_help="Serve a model as a run, which any other shell finds.")
def run(argv: list[str]) -> int:
    """Serve a model as a run: until Ctrl-C, or with --detach until `modelserve stop`.

    NAME is a function of the project. PATH makes one: hf://ORG/NAME[:REVISION], a directory or a file, s3://…,
    http(s)://….

    \b
    modelserve run hf://google-bert/bert-base-uncased --detach
    modelserve run ./model --model_name bert --replicas 2 --resources cpu=2,mem=4Gi
    modelserve run bert --env HF_HUB_OFFLINE=1 --return_probabilities
    """
    asked = parse(argv)
    from modelserve.deploy.record import now

    began = now()
    function = function_of(asked)
    with _signals() as signals:
        try:
            made = function.run(action="serve", target=asked.target, **asked.parameters)
        except (ConfigError, EntityNotFound, TargetError):
            if function.metadata.created >= began and not function.list_runs():  # refused before it was stored
                with suppress(ConfigError):  # another command's run is of it by now
                    function.delete(cascade=False)
            raise
        try:
            signals.heed()
            if asked.no_wait:
                return tell(made, asked.json)
            made.wait(timeout=asked.timeout, log_info=not asked.json)
            tell(made, asked.json)
            return 0 if asked.detach else _followed(made, asked)
        except KeyboardInterrupt:
            if asked.detach or asked.no_wait:
                _say(f"the run {made.id[:SHORT]} goes on; `modelserve stop {made.id[:SHORT]}` ends it")
            return 128 + signals.number
        finally:
            if not (asked.detach or asked.no_wait):
                _end(made)


def _followed(made: Run, asked: Line) -> int:
    """Until it ends, its log; Raises RunFailed."""
    for text in made.logs(follow=True):
        click.echo(text, err=asked.json)
    with suppress(EntityNotFound):  # removed: it was wanted so
        made.refresh()
    if made.state == "ERROR":
        raise RunFailed(f"the run {made.id} is ERROR: {made.status.message}")
    return 0


def _end(made: Run) -> None:
    """Stop it, where it has not ended by itself."""
    try:
        made.refresh()
    except EntityNotFound:
        return
    if made.alive:
        _say(f"stopping the run {made.id[:SHORT]}")
        made.stop()


def _say(sentence: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        click.echo(sentence, err=True)


class _Signals:
    """Which signal came; it is raised as KeyboardInterrupt, but not before `heed`: until then the run is being made,
    and nobody would stop it."""

    def __init__(self) -> None:
        self.number = 0
        self._heeded = False

    def heed(self) -> None:
        self._heeded = True
        if self.number:
            raise KeyboardInterrupt

    def came(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if self._heeded:
            raise KeyboardInterrupt


@contextmanager
def _signals() -> Iterator[_Signals]:
    """Ctrl-C, SIGTERM and the end of the terminal, unless they are ignored (nohup)."""
    signals = _Signals()
    before: dict[signal.Signals, Any] = {one: signal.getsignal(one) for one in _SIGNALS}
    heard = {one: handler for one, handler in before.items() if handler != signal.SIG_IGN}
    for one in heard:
        signal.signal(one, signals.came)
    try:
        yield signals
    finally:
        for one, handler in heard.items():
            signal.signal(one, handler)
