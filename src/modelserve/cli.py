"""The command `modelserve`: `serve` here, what deals with runs in commands/.

Knows how commands are written, not what they do; what does it is imported when its command runs, so that `--help` is
quick. Errors become one line on stderr: exit status 2 for a wrong command line, 3 for what is not there, 4 for a wait
that was too short, 1 for what failed, 130 for Ctrl-C.
"""

from __future__ import annotations

import atexit
import gc
import logging
import os
import sys
from collections.abc import Sequence

import click
from click.shell_completion import CompletionItem

from modelserve import flags, registry
from modelserve.commands.completion import flag_words
from modelserve.commands.index import SECTIONS
from modelserve.environment import environment_defaults
from modelserve.errors import ConfigError, EntityNotFound, LoadError, ModelServeError, WaitTimeout

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 120}
_STATUS: tuple[tuple[type[ModelServeError], int], ...] = (
    (LoadError, 1),
    (ConfigError, 2),
    (EntityNotFound, 3),
    (WaitTimeout, 4),
    (ModelServeError, 1),
)
"""The first that an error is."""


class _Commands(click.Group):
    """The commands in the order of SECTIONS, under its headings, `serve` after them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.commands)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        shown = {**SECTIONS, "One model in this process, without a run": (serve,)}
        rows = [(one.name or "", one.get_short_help_str(limit=80)) for section in shown.values() for one in section]
        width = max(len(name) for name, _ in rows)
        for title, section in shown.items():
            if title:
                with formatter.section(title):
                    formatter.write_dl(
                        [((one.name or "").ljust(width), one.get_short_help_str(limit=80)) for one in section]
                    )

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # whoever reads has enough, as `head` does: nothing is wrong
            _drop_output()
            return 0


class _FlagsCommand(click.Command):
    """A command whose flags are the parameter table: `modelserve.flags` reads them, the help shows them by group."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if not ctx.resilient_parsing and any(word in ctx.help_option_names for word in args):
            click.echo(ctx.get_help())
            ctx.exit()
        ctx.params["argv"] = args
        return []

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        return flag_words([p.name for p in flags.PARAMETERS], ctx.params.get("argv", ()), incomplete)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return ["[--flag value]..."]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for group, parameters in flags.by_group().items():
            with formatter.section(group):
                for parameter in parameters:
                    _write_row(formatter, parameter)


@click.group(cls=_Commands, context_settings=_SETTINGS)
@click.version_option(package_name="modelserve", message="%(prog)s %(version)s")
def modelserve() -> None:
    """Serve Hugging Face models behind the standard inference APIs."""


@modelserve.command(cls=_FlagsCommand, short_help="Serve one model until SIGTERM or Ctrl-C.")
def serve(argv: list[str]) -> int:
    """Serve one model over V1, V2, gRPC and OpenAI's API until SIGTERM or Ctrl-C.

    \b
    modelserve serve --model_id google-bert/bert-base-uncased
    modelserve serve --model_dir ./model --model_name bert --http_port 9000

    A flag is written with _ or -, as --flag value or --flag=value; a flag that is true or false may stand alone for
    true. What the command line does not say is read from the environment variable named beside the flag.
    """
    from modelserve import logs

    # May begin the process again: before anything else.
    registry.load("modelserve.backends.memory:tune_allocator")()
    config = flags.parse(argv, os.environ)
    logs.configure(config)
    for warning in flags.unknown_variables(os.environ):
        logging.getLogger("modelserve").warning(warning)
    environment_defaults()
    status: int = registry.load("modelserve.server:run")(config)
    return status


for section in SECTIONS.values():
    for command in section:
        modelserve.add_command(command)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command line (sys.argv's when None is given) and return its exit status."""
    atexit.register(gc.freeze)  # no last search for garbage when the process ends: a fifth of the time of `runs`
    try:
        status: int | None = modelserve.main(argv, prog_name="modelserve", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return error.exit_code
    except click.ClickException as error:
        return _fail(error.format_message(), error.exit_code)
    except ModelServeError as error:
        return _fail(error.message, next(status for kind, status in _STATUS if isinstance(error, kind)))
    except OSError as error:
        _drop_output()
        place = f"{error.filename}: " if error.filename else ""
        return _fail(f"{place}{error.strerror or error}", 1)
    except click.Abort:  # click's name for Ctrl-C
        return 130
    return status or 0


def _drop_output() -> None:
    """What stdout did not take is not offered to it again when the process ends, which would be one more error."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _write_row(formatter: click.HelpFormatter, parameter: flags.Parameter) -> None:
    """A flag, what it means, and in brackets what it may be, what it is by default, and its environment variables."""
    plain_text = parameter.type is str and not parameter.choices
    value = {int: " N", float: " N", str: " TEXT", tuple: " A,B,…", bool: ""}[parameter.type]
    notes = [] if plain_text else [parameter.allowed]
    notes += [f"{word} is {choice}" for word, choice in parameter.synonyms.items()]
    if parameter.default not in (None, (), ""):
        notes.append(f"default {flags.as_text(parameter.default)}")
    notes.append(" or ".join(filter(None, [parameter.variables[0], parameter.env])))
    formatter.write_text(", ".join(f"--{name}" for name in parameter.names) + value)
    with formatter.indentation(), formatter.indentation():
        formatter.write_text(parameter.help)
        formatter.write_text(f"[{'; '.join(notes)}]")


def _fail(message: str, status: int) -> int:
    print("modelserve: error:", " ".join(message.split()), file=sys.stderr)
    return status
