"""How a benchmark's command ends: one way to leave, and no child is left behind."""

from __future__ import annotations

import signal

import click

from benchmarks.child import BenchmarkError


def run(command: click.Command) -> None:
    """The command line's; exits with a sentence for what went wrong."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        command.main(standalone_mode=False)
    except (BenchmarkError, ConnectionError) as error:
        raise SystemExit(f"benchmark: {error}") from None
    except (KeyboardInterrupt, click.Abort):
        raise SystemExit("stopped") from None
    except click.ClickException as error:
        error.show()
        raise SystemExit(2) from None
