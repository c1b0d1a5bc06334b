"""/openapi.json: our own OpenAPI 3.1 document, from what each route says of itself and the structs it decodes with.

Strict on purpose: bodies, answers and every status that a route gives are in it, so that a fuzzer can hold the server
to it. Pure functions; knows no protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

import msgspec

REQUEST_ERRORS = (400, 404, 408, 413, 415, 429, 503, 504)
"""What a route that reads a body and asks the model can answer besides 200."""
_JSON = "application/json"
_EVENTS = "text/event-stream"
_EVENT = {"schema": {"type": "object", "properties": {"data": {"type": "string"}}, "required": ["data"]}}
"""Of each event, not of the body: so OpenAPI 3.2 has it, and who reads 3.1 documents of streams."""
_REF = "#/components/schemas/{name}"
_HEADERS = {"x-request-id": {"$ref": "#/components/headers/x-request-id"}}


class Error(msgspec.Struct):
    """One sentence that says what was wrong and what would be right."""

    error: str


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path, as the document describes it.

    answer, request: the types of the JSON bodies; an answer of None with `errors` alone is a route that only refuses.
    rows, rows_example: request and example where the model takes rows of features, when they are others.
    media: the answer's types where they are not JSON. stream: answers with server-sent events when asked to. event:
    takes and gives CloudEvents too. binary: takes and gives bytes behind its JSON too. not_ready: the body of a 503
    that is no error but an answer. error: the API's error body.
    example: a request's body that works; under the key `model` the name of a model that is served is put.
    """

    summary: str
    answer: Any = None
    request: Any = None
    errors: tuple[int, ...] = ()
    media: tuple[str, ...] = ()
    event: Any = None
    binary: bool = False
    stream: bool = False
    not_ready: Any = None
    error: Any = Error
    example: Any = None
    rows: Any = None
    rows_example: Any = None

    def to_rows(self) -> Operation:
        """The same operation of a model that takes rows of features."""
        return replace(self, request=self.rows or self.request, example=self.rows_example or self.example)

    def types(self) -> list[Any]:
        return [t for t in (self.answer, self.request, self.event, self.not_ready, self.error) if t is not None]


@dataclass(frozen=True, slots=True)
class Described:
    """An operation at its place."""

    path: str
    methods: Sequence[str]
    tag: str
    operation: Operation


def document(described: Iterable[Described], model_names: Sequence[str]) -> dict[str, Any]:
    """The document. `model_names` become the only values of the path's {model}."""
    described = list(described)
    types = list(dict.fromkeys(kind for place in described for kind in place.operation.types()))
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema = dict(zip(types, schemas, strict=True))
    for place in described:
        _name_models(place.operation.request, components, model_names)
    paths: dict[str, dict[str, Any]] = {}
    for place in described:
        for method in place.methods:
            item = _item(place, method, schema, model_names)
            paths.setdefault(place.path, {})[method.lower()] = item
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "modelserve",
            "version": version("modelserve"),
            "description": "Models behind V1, V2 (Open Inference Protocol) and OpenAI's API.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "headers": {
                "x-request-id": {
                    "description": "The request's id in the log: the caller's own, or a new one.",
                    "schema": {"type": "string"},
                }
            },
        },
    }


def _item(place: Described, method: str, schema: dict[Any, Any], model_names: Sequence[str]) -> dict[str, Any]:
    operation = place.operation
    item: dict[str, Any] = {
        "summary": operation.summary,
        "tags": [place.tag],
        "operationId": re.sub(r"\W+", "_", f"{method.lower()}{place.path}").strip("_"),
    }
    values = {"model": list(model_names), "version": ["1"]}
    if names := re.findall(r"{(\w+)}", place.path):
        item["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": values[name]}}
            for name in names
        ]
    if operation.request is not None:
        content = _content(operation, schema[operation.request], schema)
        if operation.example is not None:
            content[_JSON]["example"] = _example(operation, model_names)
        item["requestBody"] = {"required": True, "content": content}
    item["responses"] = dict(_responses(operation, schema))
    return item


def _name_models(request: Any, components: dict[str, Any], model_names: Sequence[str]) -> None:
    """Where a body names its model (OpenAI's do), only the models that are served."""
    schema = components.get(getattr(request, "__name__", ""), {})
    if "model" in schema.get("properties", {}):
        schema["properties"]["model"] = {"type": "string", "enum": list(model_names)}


def _example(operation: Operation, model_names: Sequence[str]) -> Any:
    if isinstance(operation.example, dict) and "model" in operation.example:
        return operation.example | {"model": model_names[0]}
    return operation.example


def _content(operation: Operation, body: dict[str, Any], schema: dict[Any, Any]) -> dict[str, Any]:
    content: dict[str, Any] = {_JSON: {"schema": body}}
    if operation.event is not None:
        content["application/cloudevents+json"] = {"schema": schema[operation.event]}
    if operation.binary:
        content["application/octet-stream"] = {"schema": {}}
    return content


def _responses(operation: Operation, schema: dict[Any, Any]) -> Iterable[tuple[str, dict[str, Any]]]:
    if operation.answer is not None:
        content = _content(operation, schema[operation.answer], schema)
        if operation.stream:
            content[_EVENTS] = _EVENT
        yield "200", _response(200, content)
    elif operation.media:
        yield (
            "200",
            _response(
                200,
                {media: _EVENT if media == _EVENTS else {"schema": {"type": "string"}} for media in operation.media},
            ),
        )
    if operation.not_ready is not None:
        yield "503", _response(503, {_JSON: {"schema": schema[operation.not_ready]}})
    for code in (*operation.errors, 500):
        yield str(code), _response(code, {_JSON: {"schema": schema[operation.error]}})


def _response(code: int, content: dict[str, Any]) -> dict[str, Any]:
    return {"description": HTTPStatus(code).phrase, "headers": _HEADERS, "content": content}
