"""Config from a command line, an environment or keywords, and back to a command line.

All of it derives from the fields of `modelserve.config.Config`. Knows no command and no server; reads no environment
but the mapping it is given. Pure functions, called at start.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from difflib import get_close_matches
from math import nan
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from modelserve.config import Config
from modelserve.environment import PREFIX, is_reserved
from modelserve.errors import ConfigError
from modelserve.predictor import address, sent_as
from modelserve.vllm_flags import NAMES, OURS, is_vllm

_TRUE = frozenset({"y", "yes", "t", "true", "on", "1"})
_FALSE = frozenset({"n", "no", "f", "false", "off", "0"})
_FINITE = sys.float_info.max


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Parameter:
    """One row of the table, with its type. `modelserve.param` says what the other fields mean."""

    name: str
    type: type[Any]
    """str, int, float, bool or tuple (of str)."""
    default: Any
    help: str
    group: str
    choices: tuple[str, ...]
    env: str | None
    aliases: tuple[str, ...]
    synonyms: Mapping[str, str]
    minimum: float | None
    maximum: float | None
    empty: bool
    excludes: tuple[str, ...]
    source: str

    @property
    def names(self) -> tuple[str, ...]:
        return (self.name, *self.aliases)

    @property
    def variables(self) -> tuple[str, ...]:
        """Environment variables, the one that wins first."""
        ours = tuple(map(_variable, self.names))
        return (*ours, self.env) if self.env else ours

    @property
    def allowed(self) -> str:
        """What a value must be, as the end of a sentence."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        if self.type in (int, float):
            number = "a whole number" if self.type is int else "a number"
            if self.maximum is not None:
                return f"{number} from {self.minimum:g} to {self.maximum:g}"
            return number if self.minimum is None else f"{number} of at least {self.minimum:g}"
        if self.type is bool:
            return "true or false"
        if self.type is tuple:
            return "a comma-separated list"
        return "a text" if self.empty else "a text that is not empty"


def _parameters() -> Iterator[Parameter]:
    hints = get_type_hints(Config)
    for field in fields(Config):
        hint = hints[field.name]
        if isinstance(hint, UnionType):
            (hint,) = (kind for kind in get_args(hint) if kind is not NoneType)
        yield Parameter(name=field.name, type=get_origin(hint) or hint, default=field.default, **field.metadata)


PARAMETERS: tuple[Parameter, ...] = tuple(_parameters())
_BY_NAME = {name: parameter for parameter in PARAMETERS for name in parameter.names}


def by_group() -> dict[str, list[Parameter]]:
    """The table by its groups, in order, for `--help` and the documentation."""
    groups: dict[str, list[Parameter]] = {}
    for parameter in PARAMETERS:
        groups.setdefault(parameter.group, []).append(parameter)
    return groups


def parse(argv: Sequence[str], environ: Mapping[str, str]) -> Config:
    """The configuration that a command line and an environment ask for.

    The command line wins over MODELSERVE_<NAME>, that over another project's variable, that over the default; of a
    flag that is repeated the last counts. Raises ConfigError with one sentence for whoever wrote the command.
    """
    given = {parameter: (said, text) for parameter, said, text in _from_environ(environ)}
    given |= {parameter: (said, text) for parameter, said, text in _from_argv(argv, _asks_for_vllm(argv, environ))}
    return _checked({parameter.name: _value(parameter, said, text) for parameter, (said, text) in given.items()})


def given(argv: Sequence[str]) -> dict[str, Any]:
    """What a command line says, by the table's names, and nothing that it leaves to defaults. Raises ConfigError."""
    found = _from_argv(argv, _asks_for_vllm(argv, {}))
    return {parameter.name: _value(parameter, said, text) for parameter, said, text in found}


def is_switch(name: str) -> bool:
    """Whether a flag of this name, in snake_case, may stand without a value."""
    return name in _BY_NAME and _BY_NAME[name].type is bool


def from_keywords(**keywords: Any) -> Config:
    """The configuration that Python keywords ask for; values of the field's type, or text. Raises ConfigError."""
    values: dict[str, Any] = {}
    for keyword, value in keywords.items():
        parameter = _BY_NAME.get(keyword)
        if parameter is None:
            raise ConfigError(_unknown("keyword", keyword, keyword, str))
        if parameter.name in values:
            raise ConfigError(f"{' and '.join(parameter.names)} are one parameter; give only one of them")
        values[parameter.name] = _from_python(parameter, keyword, value)
    return _checked(values)


def to_args(config: Config) -> list[str]:
    """The command line that gives this configuration: one word for each value that is not the default."""
    values = ((parameter, getattr(config, parameter.name)) for parameter in PARAMETERS)
    return [f"--{parameter.name}={as_text(value)}" for parameter, value in values if value != parameter.default]


def without_parameters(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment for a process that is told everything by `to_args`: a value that is the default is not in there,
    and must not be read from a variable instead."""
    read = {variable for parameter in PARAMETERS for variable in parameter.variables}
    strangers = {variable for variable, _ in _strangers(environ)}
    return {name: value for name, value in environ.items() if name not in read | strangers}


def as_text(value: Any) -> str:
    """A value of the table as it is written on a command line."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple | list):
        return ",".join(map(str, value))
    return str(value).removesuffix(".0") if isinstance(value, float) else str(value)


def unknown_variables(environ: Mapping[str, str]) -> list[str]:
    """A sentence for each MODELSERVE_ variable that is nobody's: most likely a misspelling, and worth a warning."""
    return [
        _unknown("variable", variable, name, _variable) + " It has no effect." for variable, name in _strangers(environ)
    ]


def _asks_for_vllm(argv: Sequence[str], environ: Mapping[str, str]) -> bool:
    """Whether --backend vllm is said, and so whether a flag that nobody knows may be one of a vLLM that is newer."""
    said = environ.get(_variable("backend"), "")
    for word, following in zip(argv, [*argv[1:], ""], strict=False):
        flag, equals, value = word.partition("=")
        if flag == "--backend":
            said = value if equals else following
    return said.strip().lower() == "vllm"


def _from_argv(argv: Sequence[str], vllm: bool) -> Iterator[tuple[Parameter, str, str]]:
    """(parameter, flag as typed, value as typed) in order; vLLM's flags, with what follows them, at the end.

    vllm: an unknown flag is vLLM's to judge, and ours have its names for them too.
    """
    words = deque(argv)
    passed: list[str] = []
    text = ""
    while words:
        flag, equals, value = words.popleft().partition("=")
        if not _is_flag(flag):
            raise ConfigError(f"unexpected argument {flag + equals + value!r}; a flag starts with --")
        name = flag.removeprefix("--").replace("-", "_")
        parameter = _BY_NAME.get(OURS.get(name, name) if vllm else name) if flag.startswith("--") else None
        if parameter is None and name not in OURS and (vllm or is_vllm(flag)):
            passed.append(flag + equals + value)
            while words and not _is_flag(words[0]):
                passed.append(words.popleft())
            continue
        if parameter is None:
            raise ConfigError(unknown_flag(flag))
        theirs = parameter.name == "vllm_args"  # whose value begins like a flag
        if not equals and words and (theirs or not _is_flag(words[0])):
            value = words.popleft()
        elif not equals and parameter.type is bool:
            value = "true"
        elif not equals:
            raise ConfigError(f"{flag} needs a value, {parameter.allowed}")
        if theirs:
            text = value
        yield parameter, flag, value
    if passed:
        yield _BY_NAME["vllm_args"], passed[0], f"{text} {shlex.join(passed)}".lstrip()


def _is_flag(word: str) -> bool:
    """Whether a word is a flag and not a value: -1 and a lone dash are values."""
    return re.match(r"--|-[^\d.]", word) is not None


def _from_environ(environ: Mapping[str, str]) -> Iterator[tuple[Parameter, str, str]]:
    """(parameter, variable, value). An empty variable counts as not set, except where empty is a value."""
    for variable, name in _strangers(environ):
        if is_vllm("--" + name):
            raise ConfigError(_unknown("variable", variable, name, _variable))
    for parameter in PARAMETERS:
        for variable in parameter.variables:
            value = environ.get(variable, "")
            if (value or (parameter.empty and variable in environ)) and not is_reserved(variable, value):
                yield parameter, variable, value
                break


def _strangers(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """(variable, name in lower case) for each MODELSERVE_ variable that is neither a parameter nor reserved."""
    known = {variable for parameter in PARAMETERS for variable in parameter.variables}
    for variable, value in environ.items():
        if variable.startswith(PREFIX) and variable not in known and not is_reserved(variable, value):
            yield variable, variable.removeprefix(PREFIX).lower()


def _from_python(parameter: Parameter, keyword: str, value: Any) -> Any:
    if value is None and parameter.default is None:
        return None
    if parameter.type is str and not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{keyword} is {value!r}; it must be {parameter.allowed}")
    return _value(parameter, keyword, as_text(value))


def _value(parameter: Parameter, said: str, text: str) -> Any:
    """`text` as a value of the parameter's type. `said` is where it came from: a flag, a variable or a keyword."""
    word = text.strip().lower()
    if parameter.choices:
        choice = parameter.synonyms.get(word, word)
        if choice in parameter.choices:
            return choice
    elif parameter.type is bool:
        if word in _TRUE or word in _FALSE:
            return word in _TRUE
    elif parameter.type in (int, float):
        try:
            number = parameter.type(word)
        except ValueError:
            number = nan
        low = -_FINITE if parameter.minimum is None else parameter.minimum
        high = _FINITE if parameter.maximum is None else parameter.maximum
        if low <= number <= high:
            return number
    elif parameter.type is tuple:
        return tuple(item.strip() for item in text.split(",") if item.strip())
    elif text or parameter.empty:
        return text
    raise ConfigError(f"{said} is {text!r}; it must be {parameter.allowed}")


def _checked(values: dict[str, Any]) -> Config:
    config = Config(**values)
    for parameter in PARAMETERS:
        for other in parameter.excludes:
            if getattr(config, parameter.name) and getattr(config, other):
                raise ConfigError(f"--{other} and --{parameter.name} exclude each other; give only one of them")
    try:
        shlex.split(config.vllm_args)
    except ValueError as error:
        raise ConfigError(f"vllm_args is {config.vllm_args!r}; a quotation mark is missing") from error
    _check_predictor(config)
    return config


def _check_predictor(config: Config) -> None:
    sent_as(config.tensor_input_names)
    if config.predictor_host is None:
        return
    address(config.predictor_host, ssl=config.predictor_use_ssl)
    if config.backend not in ("auto", "huggingface"):
        raise ConfigError(
            f"--backend {config.backend} runs the model here, and --predictor_host elsewhere; give only one of them"
        )


def _variable(name: str) -> str:
    return PREFIX + name.upper()


def unknown_flag(flag: str) -> str:
    """What to say of a flag that is not in the table, as it was typed."""
    return _unknown("flag", flag, flag.lstrip("-").replace("-", "_"), "--{}".format)


def _unknown(kind: str, said: str, name: str, spelled: Callable[[str], str]) -> str:
    """What to say of a name that is not in the table; `spelled` is how a name of the table is written there."""
    wrong = f"unknown {kind} {said}"
    if name not in OURS and is_vllm("--" + name):
        return f"{wrong}; it is vLLM's: say it in {spelled('vllm_args')}"
    near = [OURS[name]] if name in OURS else get_close_matches(name.lower(), _BY_NAME, n=1)
    if not near and kind == "flag":
        near = get_close_matches(name.lower(), set(NAMES) - OURS.keys(), n=1)
    return (
        f"{wrong}; did you mean {spelled(near[0])}?"
        if near
        else f"{wrong}; `modelserve serve --help` lists what there is"
    )
