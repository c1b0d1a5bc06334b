"""Calls that must be made are made, whatever the model knows."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from modelserve.runtime.tools.calls import Delta
from modelserve.runtime.tools.forced import Forced, grammar, read
from modelserve.runtime.tools.formats import reader
from tests.runtime.test_grammar import grammars, write

TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "move",
            "parameters": {
                "type": "object",
                "properties": {"to": {"$ref": "#/$defs/Place"}},
                "required": ["to"],
                "additionalProperties": False,
                "$defs": {"Place": {"enum": ["Köln", "Paris"]}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "count",
            "parameters": {
                "type": "object",
                "properties": {"to": {"$ref": "#/$defs/Place"}},
                "required": ["to"],
                "additionalProperties": False,
                "$defs": {"Place": {"type": "integer", "minimum": 1, "maximum": 99}},
            },
        },
    },
]
SCHEMAS = {tool["function"]["name"]: tool["function"]["parameters"] for tool in TOOLS}


def written(kind: str, found: Forced, seed: int) -> list[Delta]:
    assert found.grammar is not None
    text = write(kind, grammars(kind).compile(found.grammar)(), seed, most=3000)
    assert text is not None
    assert [delta for part in text for delta in found.feed(part)] == []
    return found.end()


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "unigram"])
def test_one_call_where_no_more_are_heard(kind: str) -> None:
    """Some model would write sixteen, and be cut off before the list is whole."""
    for seed in range(6):
        found = reader("hermes", TOOLS, "required", one_call=True)
        assert isinstance(found, Forced)
        assert {delta.call for delta in written(kind, found, seed)} == {0}


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "unigram"])
def test_any_of_the_tools(kind: str) -> None:
    names = set()
    for seed in range(12):
        deltas = written(kind, Forced(TOOLS, None), seed)
        assert deltas
        for index, (start, arguments) in enumerate(zip(deltas[::2], deltas[1::2], strict=True)):
            assert (start.call, arguments.call) == (index, index)
            assert start.id
            jsonschema.validate(json.loads(arguments.arguments), SCHEMAS[start.name])
            names.add(start.name)
    assert names == {"move", "count"}


@pytest.mark.parametrize("name", ["move", "count"])
def test_a_named_one(name: str) -> None:
    choice = {"type": "function", "function": {"name": name}}
    for seed in range(5):
        found = reader("mistral", TOOLS, choice)
        assert isinstance(found, Forced)
        start, arguments = written("byte_level", found, seed)
        assert (start.name, len(start.id)) == (name, 9)
        jsonschema.validate(json.loads(arguments.arguments), SCHEMAS[name])


def test_what_was_cut_off_is_content() -> None:
    found = reader(None, TOOLS, "required")
    assert isinstance(found, Forced)
    assert found.feed('[{"name": "move", "parameters": {"to"') == []
    assert found.end() == [Delta('[{"name": "move", "parameters": {"to"')]
    assert read("", "move") is None
    assert read("[]", None) is None
    assert read('[{"name": "f"}]', None) is not None


def test_a_function_without_parameters() -> None:
    tool = {"type": "function", "function": {"name": "now"}}
    assert json.loads(grammar([tool], "now").source) == {"type": "object"}
    grammars("byte_level").compile(grammar([tool], None))
