"""The command line of `modelserve run`: one name or path, its own options, and every parameter of a run.

Pure: words in, keywords out. Knows no store.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from modelserve import flags
from modelserve.deploy.parameters import POD
from modelserve.errors import ConfigError

DEFAULT_PROJECT = "default"

OWN = {
    "project": "TEXT  Project of the function and the run; default " + DEFAULT_PROJECT,
    "name": "TEXT  Name of the function that a path makes; the path's last part when not given",
    "kind": "TEXT  Kind of the function that a path makes; by the path when not given",
    "detach": "  Return once the model answers and leave it running; without it the log follows and Ctrl-C stops it",
    "no-wait": "  With --detach: return at once",
    "timeout": "N  Seconds to wait for the model",
    "target": "TEXT  local, or kubernetes",
    "json": "  Print the run as JSON",
}
_SWITCHES = ("detach", "no_wait", "json")


def parse(argv: Sequence[str]) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """(name or path, this command's own options, keywords for Function.run). Raises ConfigError."""
    rows = {row.name for row in POD} | {"env", "secret"}
    own: dict[str, Any] = {}
    given: dict[str, list[str]] = {}
    rest: list[str] = []
    what: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not word.startswith("--"):
            # A value of a server's flag follows its flag; what stands alone is the name or path.
            if rest and rest[-1].startswith("--") and "=" not in rest[-1] and what:
                rest.append(word)
            else:
                what.append(word)
        elif name in _SWITCHES:
            own[name] = not equals or value.lower() in ("true", "1", "yes")
        elif name in rows or name.replace("_", "-") in OWN:
            if not equals:
                if not words:
                    raise ConfigError(f"{flag} needs a value")
                value = words.popleft()
            if name in rows:
                given.setdefault(name, []).append(value)
            else:
                own[name] = value
        else:
            rest.append(word)
            if not equals and words and not words[0].startswith("--") and not flags.is_switch(name):
                rest.append(words.popleft())
    if len(what) != 1:
        raise ConfigError(f"give one function's name or one path, not {len(what)}: {' '.join(what) or 'nothing'}")
    server = {("huggingface_task" if name == "task" else name): value for name, value in flags.given(rest).items()}
    return what[0], own, server | _pod(given)


def _pod(given: Mapping[str, list[str]]) -> dict[str, Any]:
    """Values as typed for the parameters of a run: JSON, or the short form where there is one."""
    found: dict[str, Any] = {}
    for name, texts in given.items():
        if name in ("env", "secret"):
            continue
        last = texts[-1]
        if last[:1] in "[{":
            try:
                found[name] = json.loads(last)
            except ValueError as error:
                raise ConfigError(f"--{name} is {last!r}, which is no JSON: {error}") from error
        elif name in ("resources", "node_selector"):
            found[name] = dict(_pair(name, part) for part in last.split(","))
        elif name == "envs":
            found[name] = dict(_pair(name, part) for part in texts)
        elif name in ("args", "secrets"):
            found[name] = texts if name == "args" else [one for text in texts for one in text.split(",")]
        else:
            found[name] = int(last) if name == "replicas" and last.isdigit() else last
    if "env" in given:
        found["envs"] = dict(_pair("env", text) for text in given["env"])
    if "secret" in given:
        found["secrets"] = [*found.get("secrets", ()), *given["secret"]]
    return found


def _pair(name: str, text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not key or not equals:
        raise ConfigError(f"--{name} is {text!r}; it must be NAME=VALUE, or JSON")
    return key, value


def seconds(text: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise ConfigError(f"--timeout is {text!r}; it must be a number of seconds") from error
