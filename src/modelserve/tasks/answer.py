"""Which kind of answer a request asks for, and which request parameters mean something to a task.

Pure functions of the parameters, called in a tokenizer thread before any queue. Knows no single task.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.types import Instance, Params, TextPair

log = logging.getLogger(__name__)

DEFAULT = "default"
PROBABILITIES = "probabilities"
LOGITS = "logits"
KSERVE: Mapping[str, str] = {"return_probabilities": PROBABILITIES, "return_raw_logits": LOGITS}
"""KServe's two flags, which are request parameters too, and the kinds of answer that they ask for."""

NUMBER_BYTES = 56
FIELD_BYTES = 128
OBJECT_BYTES = 256
"""Memory that an answer takes while it is made and written, measured over V1 and V2: per number of a tensor, per field
of a JSON object, per object."""

_NOTHING_ASKED = Params()
_EVERY_TASK = frozenset({"truncation"})


class Answers:
    """The kinds of answer that one task gives, and the server's own choice among them."""

    def __init__(self, task: str, config: Config, kinds: Mapping[str, str], also: Sequence[str] = ()) -> None:
        """kinds: parameter -> the kind of answer that it asks for. also: the task's parameters that ask for none.

        Raises LoadError when the server's flags ask for two kinds.
        """
        self._task = task
        self._kinds = kinds
        self._known = _EVERY_TASK | {*kinds, *also}
        flags = [name for name in KSERVE if name in kinds and getattr(config, name)]
        if len(flags) > 1:
            raise LoadError(f"--{flags[0]} and --{flags[1]} ask for different answers; give one of them")
        for name in KSERVE:
            if name not in kinds and getattr(config, name):
                log.warning("--%s has no effect: %s has no classes", name, task)
        self._flag = flags[0] if flags else None
        self.default = kinds[self._flag] if self._flag else DEFAULT
        """The kind of a request without parameters."""

    def kind(self, params: Params) -> str:
        """The kind of answer, one of `kinds`' or DEFAULT.

        Raises InvalidRequest for a parameter that means nothing to the task, and for two that ask for different kinds.
        """
        if params == _NOTHING_ASKED:
            return self.default
        given = {name: value for name in params.__struct_fields__ if (value := getattr(params, name)) is not None}
        for name in given:
            if name not in self._known:
                raise InvalidRequest(f"{name} means nothing to the task {self._task}", param=name)
        asked = {kind: name for name, kind in self._kinds.items() if given.get(name, False) is not False}
        if len(asked) > 1:
            first, second = list(asked.values())[:2]
            raise InvalidRequest(f"{first} and {second} ask for different answers; give one of them", param=second)
        if asked:
            return next(iter(asked))
        return DEFAULT if given.get(self._flag or "") is False else self.default


def refuse_pairs(task: str, instances: Sequence[Instance]) -> None:
    """Raises InvalidRequest for a text pair, which only a sequence classifier reads."""
    if any(isinstance(instance, TextPair) for instance in instances):
        raise InvalidRequest(f"the task {task} takes single texts, not pairs of texts")


def at_least_one(params: Params, name: str) -> None:
    """Raises InvalidRequest when that counting parameter is below 1."""
    value = getattr(params, name)
    if value is not None and value < 1:
        raise InvalidRequest(f"{name} is {value}; it must be 1 or more", param=name)


def rounded(probabilities: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """To 4 places, as KServe writes them; in float64, whose shortest form is then 0.1373."""
    return np.round(probabilities.astype(np.float64), 4)


def objects(rows: Sequence[object]) -> list[bytes]:
    """V2's BYTES elements: one JSON object each."""
    return [msgspec.json.encode(row) for row in rows]
