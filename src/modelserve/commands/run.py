"""`modelserve run`: a path or a function becomes a run, which ends with this command, unless it is told to --detach."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from modelserve.commands.completion import begun, flag_words, function_words
from modelserve.commands.find import SHORT, line, row
from modelserve.errors import ConfigError, EntityNotFound, RunFailed
from modelserve.listing import print_json
from modelserve.run_line import FORMS, OPTIONS, Line, names, parse

if TYPE_CHECKING:
    from modelserve.deploy.function import Function
    from modelserve.deploy.run import Run

_FILES = (".pkl", ".pickle", ".joblib", ".skops")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class RunCommand(click.Command):
    """`run` takes every parameter of a run and every flag of the server, which are tables elsewhere."""

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
            formatter.write_dl([(f"--{one.name} {one.value}".strip(), one.help) for one in OPTIONS])
        with formatter.section("Parameters of the run"):
            formatter.write_dl([(f"--{row.name} {FORMS.get(row.name, 'TEXT')}", row.help) for row in POD])
        with formatter.section("Flags of the server"):
            formatter.write_text("Those of `modelserve serve`, such as --task, --dtype and --return_probabilities.")

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        found = flag_words(names(), ctx.params.get("argv", ()), incomplete)
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
    function = _function(asked)
    with _signals() as signals:
        try:
            made = function.run(action="serve", target=asked.target, **asked.parameters)
        except (ConfigError, EntityNotFound):  # refused before anything was stored of a run
            if function.metadata.created >= began:
                with suppress(ConfigError):  # another command's run is of it by now
                    function.delete(cascade=False)
            raise
        try:
            signals.heed()
            if asked.no_wait:
                return _tell(made, asked)
            made.wait(timeout=asked.timeout, log_info=not asked.json)
            _tell(made, asked)
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


def _tell(made: Run, asked: Line) -> int:
    if asked.json:
        return print_json(row(made))
    click.echo(line(made))
    return 0


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


def _function(asked: Line) -> Function:
    """The function that is named, or the one of that path: the newest of its name where that has the path already,
    else a new version. Raises EntityNotFound, ConfigError."""
    from modelserve.deploy import catalog, paths
    from modelserve.deploy.reference import NAME, SCHEME

    what = asked.what
    is_key = what.startswith(SCHEME)
    is_path = not is_key and ("://" in what or "/" in what or Path(what).exists())
    if is_key or (NAME.fullmatch(what) and not (is_path and (asked.name or asked.kind))):
        try:
            found = catalog.get_function(what, asked.project)
        except EntityNotFound as error:
            if not is_path:
                more = "" if is_key else ", and no file or directory here has that name"
                raise EntityNotFound(error.message + more) from error
        else:
            if is_path and found.spec.path != paths.absolute(what):
                raise ConfigError(f"{what} is a function and a path here; write ./{what} for the path, or {found.key}")
            _check_unset(asked, found)
            return found
    _check_here(asked)
    return _of_path(asked)


def _check_unset(asked: Line, found: Function) -> None:
    for option in ("name", "kind"):
        said = getattr(asked, option)
        if said not in (None, getattr(found, option)):
            raise ConfigError(
                f"--{option} is {said!r}, but {asked.what} is a function, whose {option} is {getattr(found, option)!r}"
            )


def _check_here(asked: Line) -> None:
    """Before a function is made of it. Raises ConfigError."""
    from modelserve.deploy import paths, run

    if run.choose_target(asked.target, None) != "local":
        return
    try:
        paths.check_here(asked.what)
    except ConfigError as error:
        hint = f"; a model on the hub is hf://{asked.what}" if _HUB_ID.fullmatch(asked.what) else ""
        raise ConfigError(error.message + hint) from error


def _of_path(asked: Line) -> Function:
    from modelserve.deploy import catalog, paths

    path = paths.absolute(asked.what)
    kind = asked.kind or _kind(path)
    name = asked.name or re.sub(r"[^A-Za-z0-9._+-]+", "-", paths.title(path)).strip("-").lower() or "model"
    with suppress(EntityNotFound):
        newest = catalog.get_function(name, asked.project)
        if (newest.kind, newest.spec.path) == (kind, path):
            return newest
    return catalog.new_function(asked.project, name, kind, path=path)


def _kind(path: str) -> str:
    if path.partition("?")[0].lower().endswith(_FILES):
        return "sklearnserve"
    return "mlflowserve" if (Path(path) / "MLmodel").is_file() else "huggingfaceserve"
