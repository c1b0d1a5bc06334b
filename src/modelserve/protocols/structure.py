"""What a caller wants a text to be: OpenAI's `response_format` and vLLM's structured outputs -> a grammar.

Pure functions; whether a grammar can be followed is told where it is compiled.
"""

from __future__ import annotations

import re
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelserve.errors import InvalidRequest
from modelserve.generation import Grammar


class AnyText(msgspec.Struct, tag_field="type", tag="text"):
    """No constraint."""


class JsonObject(msgspec.Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class NamedSchema(msgspec.Struct):
    """A schema always binds here, `strict` or not."""

    name: str
    schema: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class JsonSchema(msgspec.Struct, tag_field="type", tag="json_schema"):
    """JSON that fits the schema."""

    json_schema: NamedSchema


ResponseFormat = AnyText | JsonObject | JsonSchema


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True, rename={"schema": "json"}):
    """vLLM's field; one of its keys. json: a schema, or its text. grammar: in Lark's notation."""

    schema: dict[str, Any] | str | None = None
    regex: str | None = None
    choice: Annotated[list[str], Meta(min_length=1)] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class Structured(msgspec.Struct, kw_only=True):
    """The fields of a request that say what its text must be."""

    response_format: ResponseFormat | None = None
    structured_outputs: StructuredOutputs | None = None
    guided_json: dict[str, Any] | str | None = None
    guided_regex: str | None = None
    guided_choice: Annotated[list[str], Meta(min_length=1)] | None = None
    guided_grammar: str | None = None


def grammar_of(asked: Structured) -> Grammar | None:
    """The one grammar that is asked for. Raises InvalidRequest for two of them, and for a schema that is no JSON."""
    wanted = asked.structured_outputs or StructuredOutputs()
    found = {
        "response_format": _format(asked.response_format),
        "structured_outputs.json": _schema(wanted.schema, "structured_outputs"),
        "structured_outputs.regex": _text("regex", wanted.regex),
        "structured_outputs.choice": _choice(wanted.choice),
        "structured_outputs.grammar": _text("lark", wanted.grammar),
        "structured_outputs.json_object": Grammar("json_object") if wanted.json_object else None,
        "guided_json": _schema(asked.guided_json, "guided_json"),
        "guided_regex": _text("regex", asked.guided_regex),
        "guided_choice": _choice(asked.guided_choice),
        "guided_grammar": _text("lark", asked.guided_grammar),
    }
    given = {name: grammar for name, grammar in found.items() if grammar is not None}
    if len(given) > 1:
        first, second, *_ = given
        raise InvalidRequest(f"{first} and {second} are both given; a text follows one of them.", param=second)
    return next(iter(given.values()), None)


def _format(given: ResponseFormat | None) -> Grammar | None:
    match given:
        case JsonObject():
            return Grammar("json_object")
        case JsonSchema(json_schema):
            return _schema(json_schema.schema, "response_format") or Grammar("json_object")
        case _:
            return None


def _schema(given: dict[str, Any] | str | None, param: str) -> Grammar | None:
    if given is None:
        return None
    if isinstance(given, str):
        try:
            msgspec.json.decode(given)
        except msgspec.DecodeError as error:
            raise InvalidRequest(f"The schema in {param} is not valid JSON: {error}.", param=param) from error
        return Grammar("json_schema", given)
    return Grammar("json_schema", msgspec.json.encode(given).decode())


def _choice(given: list[str] | None) -> Grammar | None:
    return None if given is None else Grammar("regex", "|".join(f"(?:{_literally(one)})" for one in given))


def _literally(text: str) -> str:
    return re.sub(r"[\\.+*?()|\[\]{}^$#&~/\-]", r"\\\g<0>", text)


def _text(form: Any, given: str | None) -> Grammar | None:
    return None if given is None else Grammar(form, given)
