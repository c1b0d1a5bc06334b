"""A model that knows nothing, held to a grammar, writes what the grammar asks for."""

from __future__ import annotations

import json
import re
from functools import cache
from typing import Any

import jsonschema
import numpy as np
import pytest

from modelserve.errors import InvalidRequest
from modelserve.generation import Constraint, Grammar
from modelserve.runtime.grammar import Grammars
from modelserve.runtime.vocabulary import Vocabulary
from tests.vocabularies import KINDS, byte_level, unigram, word_piece

ABLE = ["byte_level", "byte_fallback", "unigram"]
PAD = 37
"""Rows of the network beyond the tokenizer's, as many have."""
SCHEMAS: list[dict[str, Any]] = [
    {
        "type": "object",
        "properties": {
            "name": {"type": "string", "maxLength": 8},
            "age": {"type": "integer", "minimum": 0, "maximum": 150},
            "tags": {"type": "array", "items": {"enum": ["a", "été", "b c"]}, "maxItems": 3},
        },
        "required": ["name", "age", "tags"],
        "additionalProperties": False,
    },
    {"anyOf": [{"type": "boolean"}, {"type": "null"}, {"const": {"x": [1, "😀"]}}]},
    {"type": "array", "items": {"type": "string", "pattern": "^[a-z]{2,4}$"}, "minItems": 2, "maxItems": 2},
]


@cache
def grammars(kind: str) -> Grammars:
    return Grammars(KINDS[kind](), len(KINDS[kind]()) + PAD)


def allowed(constraint: Constraint, rows: int) -> list[int]:
    mask = constraint.mask()
    assert mask.dtype == np.uint32
    assert mask.shape == ((rows + 31) // 32,)
    bits = np.unpackbits(mask.view(np.uint8), bitorder="little")
    assert not bits[rows:].any()
    return [int(id) for id in np.flatnonzero(bits)]


def write(kind: str, constraint: Constraint, seed: int, most: int = 400) -> str | None:
    """Its text, by logits that are noise; None when it has not ended. Ends are likely, so that it does."""
    loaded = KINDS[kind]()
    rows, noise, ids = len(loaded) + PAD, np.random.default_rng(seed), list[int]()
    words = Vocabulary(loaded)
    for _ in range(most):
        if constraint.complete:
            break
        found = allowed(constraint, rows)
        logits = noise.normal(size=rows)
        logits[loaded.eos_token_id] += 3
        id = max(found, key=lambda id: logits[id])
        constraint.accept(id)
        if id == loaded.eos_token_id:
            assert constraint.complete
            break
        ids.append(id)
    else:
        return None
    return b"".join(map(words.raw, ids)).decode()


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("kind", ABLE)
def test_bounded_schemas(kind: str, schema: dict[str, Any]) -> None:
    if kind == "unigram" and "😀" in json.dumps(schema, ensure_ascii=False):
        schema = {"anyOf": [{"type": "boolean"}, {"type": "null"}]}
    make = grammars(kind).compile(Grammar("json_schema", json.dumps(schema)))
    for seed in range(25):
        text = write(kind, make(), seed)
        assert text is not None
        jsonschema.validate(json.loads(text), schema)
        assert not re.search(r"\s\s", re.sub(r'"[^"]*"', "_", text))


@pytest.mark.parametrize("kind", ABLE)
def test_any_object(kind: str) -> None:
    make = grammars(kind).compile(Grammar("json_object"))
    texts = [write(kind, make(), seed) for seed in range(40)]
    objects = [json.loads(text) for text in texts if text is not None]
    assert objects
    assert all(isinstance(one, dict) for one in objects)


@pytest.mark.parametrize("kind", ABLE)
def test_expressions_and_grammars(kind: str) -> None:
    for seed in range(10):
        text = write(kind, grammars(kind).compile(Grammar("regex", "(yes|no) [0-9]{3}é"))(), seed)
        assert re.fullmatch("(yes|no) [0-9]{3}é", text or "")
        text = write(kind, grammars(kind).compile(Grammar("lark", 'start: "a" b\nb: "x" | "y" b'))(), seed)
        assert re.fullmatch("ay*x", text or "")


def test_the_end_is_allowed_exactly_where_the_text_is_whole() -> None:
    loaded = byte_level()
    rows, end = len(loaded) + PAD, loaded.eos_token_id
    constraint = grammars("byte_level").compile(Grammar("regex", "1[0-9]{1,2}"))()
    for character, ends, complete in (("1", False, False), ("2", True, False), ("3", True, True)):
        assert end not in allowed(constraint, rows) or character == "3"
        constraint.accept(loaded.convert_tokens_to_ids(character))
        assert (end in allowed(constraint, rows)) == ends
        assert constraint.complete == complete
    assert allowed(constraint, rows) == [end]


def test_the_ends_are_those_of_the_model() -> None:
    loaded = byte_level()
    other = loaded.convert_tokens_to_ids("<|im_end|>")
    constraint = Grammars(loaded, len(loaded), {other, loaded.eos_token_id, 10**6}).compile(Grammar("regex", "a"))()
    constraint.accept(loaded.convert_tokens_to_ids("a"))
    assert allowed(constraint, len(loaded)) == sorted([other, loaded.eos_token_id])


def test_texts_of_one_grammar_do_not_know_of_each_other() -> None:
    loaded = byte_level()
    make = grammars("byte_level").compile(Grammar("regex", "a|bb"))
    one, two = make(), make()
    one.accept(loaded.convert_tokens_to_ids("a"))
    two.accept(loaded.convert_tokens_to_ids("b"))
    assert (one.complete, two.complete, make().complete) == (True, False, False)


@pytest.mark.parametrize(
    ("grammar", "reason"),
    [
        (Grammar("json_schema", "{"), "The JSON schema cannot be compiled: "),
        (Grammar("json_schema", '{"type": "foo"}'), "Invalid type: foo"),
        (Grammar("json_schema", '{"not": {"type": "string"}}'), 'Unimplemented keys: ["not"]'),
        (Grammar("json_schema", '{"properties": {"a": false}, "required": ["a"], "type": "object"}'), "unsatisfiable"),
        (Grammar("regex", "a+("), "unclosed group"),
        (Grammar("lark", "start: b"), 'unknown name: "b"'),
        (Grammar("regex", "a" * 100_001), "has 100001 characters, at most 100000"),
        (Grammar("json_schema", '{"a":' * 5000 + "1" + "}" * 5000), "recursion limit"),
    ],
)
def test_what_is_refused(grammar: Grammar, reason: str) -> None:
    with pytest.raises(InvalidRequest) as refused:
        grammars("byte_level").compile(grammar)
    assert reason in refused.value.message
    assert "\n" not in refused.value.message


def test_a_schema_cannot_ask_for_endless_blanks() -> None:
    source = '{"type": "array", "maxItems": 0, "x-guidance": {"whitespace_pattern": "[ ]*"}}'
    make = grammars("byte_level").compile(Grammar("json_schema", source))
    assert {len(write("byte_level", make(), seed, 8) or "") for seed in range(30)} <= {2, 3}


def test_what_the_vocabulary_cannot_write() -> None:
    """bert's tokens begin with a space or have a word before them."""
    assert word_piece().convert_tokens_to_ids("##{") == word_piece().unk_token_id
    with pytest.raises(InvalidRequest, match="no tokens that begin"):
        grammars("word_piece").compile(Grammar("json_object"))
    with pytest.raises(InvalidRequest, match="no tokens that begin"):
        grammars("unigram").compile(Grammar("regex", "ꙮ"))


def test_a_text_that_cannot_go_on_ends() -> None:
    loaded = unigram()
    constraint = grammars("unigram").compile(Grammar("regex", "a(ꙮ|ꙭ)"))()
    constraint.accept(loaded.convert_tokens_to_ids("a"))
    assert allowed(constraint, len(loaded) + PAD) == [loaded.eos_token_id]
    assert constraint.complete


def test_what_a_step_may_cost_is_bounded(caplog: pytest.LogCaptureFixture) -> None:
    """More ways to go on than llguidance follows at once: the text ends there."""
    ways = range(2500)
    rules = ["start: " + " | ".join(f"r{n}" for n in ways), *(f'r{n}: "a" r{n} | "b"' for n in ways)]
    constraint = grammars("byte_level").compile(Grammar("lark", "\n".join(rules)))()
    constraint.accept(byte_level().convert_tokens_to_ids("a"))
    assert allowed(constraint, len(byte_level()) + PAD) == [byte_level().eos_token_id]
    assert constraint.complete
    assert "max is 2000" in caplog.text
