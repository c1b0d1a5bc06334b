"""`modelserve supervise`, which nobody types: the process that keeps a local run's server."""

from __future__ import annotations

import click


@click.command(hidden=True)
@click.argument("key")
def supervise(key: str) -> int:
    """The process that keeps a local run's server; started by the SDK."""
    from modelserve.registry import load

    status: int = load("modelserve.deploy.supervise:main")(key)
    return status
