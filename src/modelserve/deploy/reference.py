"""Keys and reference strings: how one entity names another, in the store, in specs and on the command line.

`store://<project>/function/<kind>/<name>:<id>` is a versioned entity, without `:<id>` its newest version;
`store://<project>/<run or task>/<kind>/<id>` an unversioned one; `<kind>://<project>/<name>:<id>` a function in a spec,
`<kind>://<project>/<id>` a task there. Pure; knows no store.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from modelserve.errors import ConfigError

Type = Literal["project", "function", "task", "run"]

SCHEME = "store://"
LATEST = "latest"
NAME = re.compile(r"[A-Za-z0-9._+-]{1,256}")
"""DigitalHub's slug pattern; what else it lets through by a mistake in a character range is refused here."""


class Key(NamedTuple):
    """Where an entity is. name is "" for what has no versions; id is "" where the newest version is meant."""

    project: str
    type: Type
    kind: str
    name: str
    id: str

    def __str__(self) -> str:
        if self.type == "project":
            return f"{SCHEME}{self.project}"
        last = self.id if not self.name else f"{self.name}:{self.id}" if self.id else self.name
        return f"{SCHEME}{self.project}/{self.type}/{self.kind}/{last}"


def parse_key(text: str) -> Key:
    """Raises ConfigError."""
    parts = text.removeprefix(SCHEME).split("/")
    if not text.startswith(SCHEME) or len(parts) not in (1, 4) or not all(parts):
        raise ConfigError(
            f"{text!r} is no key; a key is store://project, store://project/function/kind/name:id or "
            "store://project/run/kind/id"
        )
    if len(parts) == 1:
        return Key(parts[0], "project", "project", parts[0], "")
    project, type_, kind, last = parts
    if type_ == "function":
        name, _, id = last.partition(":")
        return Key(project, "function", kind, name, "" if id == LATEST else id)
    if type_ in ("task", "run"):
        return Key(project, "task" if type_ == "task" else "run", kind, "", last.rpartition(":")[2])
    raise ConfigError(f"{text!r} names a {type_}; there are projects, functions, tasks and runs")


def check_name(what: str, name: object) -> str:
    """`name`, which is one. Raises ConfigError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ConfigError(
            f"{what} is {name!r}; a name has 1 to 256 letters, digits, dots, underscores, plus and minus signs"
        )
    return name


def function_string(kind: str, project: str, name: str, id: str) -> str:
    """How a task and a run name their function."""
    return f"{kind}://{project}/{name}:{id}"


def parse_function_string(text: str) -> Key:
    """Raises ConfigError."""
    found = re.fullmatch(r"([^:/]+)://([^/]+)/([^/:]+)(?::([^/:]+))?", text)
    if found is None:
        raise ConfigError(f"{text!r} names no function; it is kind://project/name:id")
    kind, project, name, id = found.groups()
    return Key(project, "function", kind, name, "" if id in (None, LATEST) else id)


def task_string(kind: str, project: str, id: str) -> str:
    """How a run names its task; kind is the task's, such as huggingfaceserve+serve."""
    return f"{kind}://{project}/{id}"
