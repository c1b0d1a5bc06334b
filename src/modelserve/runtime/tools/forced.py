"""Calls that must be made: the JSON that a text is held to, and the calls that it is.

`tool_choice: "required"` is a list of calls, a named function the object of its arguments, as in vLLM.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from modelserve.generation import Grammar
from modelserve.runtime.tools.calls import Call, Delta, call_of, make, new_id, parse

Tool = dict[str, Any]

_DEFINITIONS = ("$defs", "definitions")
_ANY_OBJECT = {"type": "object"}
_MOST = 16
"""Calls in a list: a model that does not know how to end one does not write them forever."""


class Forced:
    """Fulfils calls.ToolReader: the text is one JSON value, read when it is whole. What is cut off is content."""

    def __init__(
        self, tools: Sequence[Tool], name: str | None, *, one_call: bool = False, make_id: Callable[[], str] = new_id
    ) -> None:
        """name: the function to call; None for any of the tools. one_call: a list of them has one, since nobody hears
        of more and a list that is cut off is no call at all.
        """
        self.grammar: Grammar | None = grammar(tools, name, 1 if one_call else _MOST)
        self._name = name
        self._make_id = make_id
        self._text = ""

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        return []

    def end(self) -> list[Delta]:
        text, self._text = self._text, ""
        calls = read(text, self._name)
        if calls is None:
            return [Delta(text)] if text else []
        deltas: list[Delta] = []
        for index, call in enumerate(calls):
            deltas.append(Delta(call=index, id=self._make_id(), name=call.name))
            deltas.append(Delta(call=index, arguments=call.arguments))
        return deltas


def grammar(tools: Sequence[Tool], name: str | None, most: int = _MOST) -> Grammar:
    """What the text must be. most: calls in a list."""
    functions = [tool["function"] for tool in tools]
    if name is not None:
        one = next(function for function in functions if function["name"] == name)
        return Grammar("json_schema", json.dumps(_parameters(one)))
    definitions: dict[str, Any] = {}
    calls = []
    for index, function in enumerate(functions):
        # References point from the root of a schema: what they name is moved there, each function's under its number.
        parameters = _moved(_parameters(function), index)
        for where in _DEFINITIONS:
            named = parameters.pop(where, {})
            definitions.setdefault(where, {}).update({f"{index}.{name}": each for name, each in named.items()})
        calls.append(
            {
                "type": "object",
                "properties": {"name": {"const": function["name"]}, "parameters": parameters},
                "required": ["name", "parameters"],
                "additionalProperties": False,
            }
        )
    schema = {"type": "array", "minItems": 1, "maxItems": most, "items": {"anyOf": calls}}
    return Grammar("json_schema", json.dumps(schema | {where: each for where, each in definitions.items() if each}))


def read(text: str, name: str | None) -> list[Call] | None:
    """The calls that a text under `grammar` is; None for one that was cut off."""
    value = parse(text)
    if name is not None:
        call = make(name, value)
        return None if call is None else [call]
    if not isinstance(value, list) or not value:
        return None
    calls = [call_of(each) for each in value]
    return None if None in calls else [call for call in calls if call is not None]


def _moved(value: Any, index: int) -> Any:
    """A copy whose references name the definitions of function number `index`."""
    if isinstance(value, list):
        return [_moved(each, index) for each in value]
    if not isinstance(value, dict):
        return value
    copy = {name: _moved(each, index) for name, each in value.items()}
    for where in _DEFINITIONS:
        start = f"#/{where}/"
        if isinstance(reference := copy.get("$ref"), str) and reference.startswith(start):
            copy["$ref"] = f"{start}{index}.{reference.removeprefix(start)}"
    return copy


def _parameters(function: dict[str, Any]) -> dict[str, Any]:
    parameters = function.get("parameters")
    return parameters if isinstance(parameters, dict) and parameters else _ANY_OBJECT
