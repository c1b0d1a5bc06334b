"""A row of the parameter table (config.py): a field of its dataclass, with what is said of it beside name and type."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from types import MappingProxyType
from typing import Any


def param(
    default: Any,
    help: str,
    *,
    group: str,
    choices: tuple[str, ...] = (),
    env: str | None = None,
    aliases: tuple[str, ...] = (),
    synonyms: Mapping[str, str] = MappingProxyType({}),
    minimum: float | None = None,
    maximum: float | None = None,
    empty: bool = False,
    excludes: tuple[str, ...] = (),
    source: str = "modelserve",
) -> Any:
    """One row of the table.

    choices: allowed values (any case accepted, stored lower). env: another project's variable that is honoured when
    MODELSERVE_<NAME> is not set. aliases: further flag names. synonyms: other spellings of a choice, stored as the
    choice. minimum, maximum: smallest and largest number allowed. empty: whether the empty text is a value.
    excludes: flags that cannot be true together with this one. source: whose name and default this is.
    """
    return field(
        default=default,
        metadata={
            "help": help,
            "group": group,
            "choices": choices,
            "env": env,
            "aliases": aliases,
            "synonyms": synonyms,
            "minimum": minimum,
            "maximum": maximum,
            "empty": empty,
            "excludes": excludes,
            "source": source,
        },
    )
