"""How commands show things: tables for people, JSON for scripts. Knows no run."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import click


def print_json(value: Any, *, compact: bool = False) -> int:
    """The exit status, so that a command may end with it."""
    click.echo(json.dumps(value, ensure_ascii=False, indent=None if compact else 2))
    return 0


def table(head: list[str], rows: list[list[str]], empty: str) -> None:
    """Columns, wide enough for what is in them; nothing is cut, so that a line can be copied from."""
    if not rows:
        click.echo(empty, err=True)
        return
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    for row in [[name.upper() for name in head], *rows]:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def age(created: str) -> str:
    """In the largest unit that is full."""
    seconds = max(0.0, (datetime.now(UTC) - datetime.fromisoformat(created)).total_seconds())
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}"
    return f"{int(seconds)}s"


def number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}" if value < 9.995 else f"{value:.0f}"


def mebibytes(value: int | None) -> str:
    return "" if value is None else f"{value / 2**20:.0f}Mi"
