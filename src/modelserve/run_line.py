"""The command line of `modelserve run` and `manifest`: one name or path, own options, every parameter of a run.

Pure: words in, a Line out. Knows no store.
"""

from __future__ import annotations

import json
import shlex
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, NamedTuple

from modelserve import flags
from modelserve.deploy import parameters
from modelserve.errors import ConfigError
from modelserve.vllm_flags import OURS, is_vllm
from modelserve.vllm_flags import is_switch as is_vllm_switch

DEFAULT_PROJECT = "default"
WAIT_S = 600.0


class Option(NamedTuple):
    """One of the command's own; value is "" for a switch."""

    name: str
    value: str
    help: str


OPTIONS = (
    Option("detach", "", "Return once the model answers, and leave the run alive."),
    Option("no-wait", "", "Return at once, and leave the run alive."),
    Option("timeout", "N", f"Seconds to wait for the model; default {WAIT_S:g}."),
    Option("project", "TEXT", f"Where the function and the run belong; {DEFAULT_PROJECT!r} when not given."),
    Option("name", "TEXT", "Name of the function that a path makes; the path's last part when not given."),
    Option("kind", "TEXT", "huggingfaceserve, sklearnserve or mlflowserve; told by the path when not given."),
    Option("target", "TEXT", "local, or kubernetes."),
    Option("json", "", "Print the run as JSON; the log goes to stderr."),
    Option("env", "A=1", "A variable of the server's environment; may be repeated."),
    Option("secret", "NAME", "A secret of the project, as a variable of that name; may be repeated."),
)
_FOR_MANIFESTS = ("project", "name", "kind", "target", "env", "secret")
MANIFEST_OPTIONS = (
    *(option for option in OPTIONS if option.name in _FOR_MANIFESTS),
    Option("json", "", "Print one JSON list."),
    Option("with-secrets", "", "Print the Secret with the values of the project's secrets too."),
    Option("dry-run", "", "Ask the cluster: print the objects as it would have them, and change nothing."),
    Option("kustomize", "DIR", "Write a base for Kustomize into this directory, in place of printing."),
    Option("kserve-runtime", "", "Print the ClusterServingRuntime for KServe alone, which names no model."),
)
UPDATE_OPTIONS = (
    *(option for option in OPTIONS if option.name in ("no-wait", "timeout", "json", "env", "secret")),
    Option("project", "TEXT", "Only this project's."),
    Option("dry-run", "", "Ask the cluster: print the objects as it would have them, and change nothing."),
    Option("force", "", "Take over what others have set meanwhile."),
)
COMMANDS = {"run": OPTIONS, "manifest": MANIFEST_OPTIONS, "update": UPDATE_OPTIONS}
FORMS = {
    "resources": "cpu=2,mem=4Gi",
    "node_selector": "A=1,B=2",
    "envs": "JSON",
    "secrets": "A,B",
    "args": "'--flag value'",
    "volumes": "JSON",
    "affinity": "JSON",
    "tolerations": "JSON",
    "replicas": "N",
    "labels": "A=1,B=2",
    "annotations": "A=1,B=2",
    "scaling": "JSON",
    "disruption_budget": "N",
    "model_cache": "20Gi",
    "triton": "JSON",
    "startup_timeout": "N",
    "image_pull_secrets": "A,B",
}
"""How parameters that are no plain text are typed; JSON is understood for each."""


def _name_of(option: Option) -> str:
    return option.name.replace("-", "_")


_OWN = {_name_of(option): option for option in (*UPDATE_OPTIONS, *MANIFEST_OPTIONS, *OPTIONS)}
_ROWS = {row.name for row in parameters.POD}
_SERVER = {name for parameter in flags.PARAMETERS for name in parameter.names}
_SAID_OTHERWISE = {
    "model_id": "hf://ORG/NAME in the place of a function's name",
    "model_dir": "the directory in the place of a function's name",
    "model_revision": "hf://ORG/NAME:REVISION in the place of a function's name",
    "workers": "--replicas N",
    "threads": "--resources cpu=N",
}
_BOOLEAN = ("true", "false", "yes", "no", "on", "off", "1", "0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """what: a function's name or key, or a path; "" where none is needed. parameters: keywords for Function.run."""

    what: str
    parameters: dict[str, Any]
    detach: bool = False
    no_wait: bool = False
    json: bool = False
    timeout: float = WAIT_S
    project: str = DEFAULT_PROJECT
    name: str | None = None
    kind: str | None = None
    target: str | None = None
    with_secrets: bool = False
    kustomize: str | None = None
    dry_run: bool = False
    force: bool = False
    kserve_runtime: bool = False


def parse(argv: Sequence[str], options: Sequence[Option] = OPTIONS) -> Line:
    """options: the command's own. Raises ConfigError with one sentence for whoever typed it."""
    own: dict[str, Any] = {}
    given: dict[str, list[str]] = {}
    server: list[str] = []
    what: list[str] = []
    words = deque(argv)
    while words:
        word = words.popleft()
        if word == "--":
            what.extend(words)
            break
        if not word.startswith("-"):
            what.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = _name(flag)
        if name not in _SERVER and is_vllm_switch(name):
            server.append(word)
            continue
        if _is_switch(name):
            value = value if equals else _switched(name, words)
        elif not equals:
            value = _value_of(flag, name, words)
        if name in _ROWS or name in ("env", "secret"):
            given.setdefault(name, []).append(value)
        elif name in _OWN:
            if all(name != _name_of(option) for option in options):
                others = [f"`modelserve {one}`" for one, theirs in COMMANDS.items() if name in map(_name_of, theirs)]
                raise ConfigError(f"{flag} is for {' and '.join(others)}; leave it out")
            own[name] = _own_value(flag, name, value)
        else:
            server.append(f"{flag}={value}")
    if len(what) != 1 and not (own.get("kserve_runtime") and not what):
        raise ConfigError(f"give one function's name or one path, not {len(what)}: {' '.join(what) or 'nothing'}")
    typed = {"huggingface_task" if name == "task" else name: value for name, value in flags.given(server).items()}
    keywords = typed | _values(given)
    parameters.read(keywords)
    return Line(what="".join(what), parameters=keywords, **own)


def names(options: Sequence[Option] = OPTIONS) -> list[str]:
    """Every flag without its dashes, for completion."""
    server = sorted((_SERVER | {"huggingface_task"}) - _SAID_OTHERWISE.keys())
    return list(dict.fromkeys([*(one.name for one in options), *(row.name for row in parameters.POD), *server]))


def _name(flag: str) -> str:
    """In snake_case. Raises ConfigError for a flag that nobody knows, with the nearest there is."""
    name = flag.removeprefix("--").replace("-", "_")
    known = _OWN.keys() | _ROWS | _SERVER
    if flag.startswith("--") and name in _SAID_OTHERWISE:
        raise ConfigError(f"{flag} is for `modelserve serve`; say {_SAID_OTHERWISE[name]}")
    if flag.startswith("--") and (name in known or name in OURS or is_vllm(flag)):
        return name  # flags.given says of vLLM's what there is to say
    near = get_close_matches(name.strip("_").lower(), sorted(known - _SAID_OTHERWISE.keys()), n=1)
    hint = f"did you mean --{near[0]}?" if near else "`modelserve run --help` lists what there is"
    raise ConfigError(f"unknown flag {flag}; {hint}")


def _is_switch(name: str) -> bool:
    return not _OWN[name].value if name in _OWN else name not in _ROWS and flags.is_switch(name)


def _switched(name: str, words: deque[str]) -> str:
    """The value of a switch that has none in its own word: true, or what follows a server's flag."""
    if name not in _OWN and words and words[0].lower() in _BOOLEAN:
        return words.popleft()
    return "true"


def _value_of(flag: str, name: str, words: deque[str]) -> str:
    if not words or (words[0].startswith("--") and name not in ("args", "vllm_args")):
        raise ConfigError(f"{flag} needs a value" + (f", such as {FORMS[name]}" if name in FORMS else ""))
    return words.popleft()


def _own_value(flag: str, name: str, value: str) -> Any:
    if not _OWN[name].value:
        if value.lower() not in _BOOLEAN:
            raise ConfigError(f"{flag} is {value!r}; it must be true or false")
        return _BOOLEAN.index(value.lower()) % 2 == 0
    if name != "timeout":
        return value
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < float("inf"):
        raise ConfigError(f"{flag} is {value!r}; it must be a number of seconds")
    return seconds


def _values(given: Mapping[str, list[str]]) -> dict[str, Any]:
    """Values as typed for the parameters of a run: JSON, or the short form where there is one."""
    found = {name: _value(name, texts) for name, texts in given.items() if name not in ("env", "secret")}
    if "env" in given:
        found["envs"] = _listed_envs(found.get("envs", {})) + _listed_envs(_pairs("env", given["env"]))
    if "secret" in given:
        found["secrets"] = [*found.get("secrets", ()), *given["secret"]]
    return found


def _value(name: str, texts: list[str]) -> Any:
    last = texts[-1]
    if name in FORMS and last[:1] in ("[", "{"):
        try:
            return json.loads(last)
        except ValueError as error:
            raise ConfigError(f"--{name} is {last!r}, which is no JSON: {error}") from error
    if name in ("resources", "node_selector", "labels", "annotations"):
        return _once(name, last)
    if name == "envs":
        return _pairs(name, texts)
    if name in ("secrets", "image_pull_secrets"):
        return [one for text in texts for one in text.split(",")]
    if name == "args":
        return [word for text in texts for word in _words(text)]
    return int(last) if FORMS.get(name) == "N" and last.isdecimal() else last


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise ConfigError(f"--args is {text!r}; a quotation mark is missing") from error


def _listed_envs(envs: Any) -> Any:
    """A mapping as the list that it is short for; anything else is for deploy.shapes to judge."""
    return [{"name": name, "value": value} for name, value in envs.items()] if isinstance(envs, dict) else envs


def _once(name: str, text: str) -> dict[str, str]:
    """A=1,B=2, with no name in it twice."""
    listed = text.split(",")
    found = _pairs(name, listed)
    for key in found:
        if sum(one.partition("=")[0] == key for one in listed) > 1:
            raise ConfigError(f"--{name} is {text!r}, which has {key} more than once; give it one value")
    return found


def _pairs(name: str, texts: Iterable[str]) -> dict[str, str]:
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise ConfigError(f"--{name} is {text!r}; it must be {'A=1' if name == 'env' else FORMS[name]}, or JSON")
        found[key] = value
    return found
