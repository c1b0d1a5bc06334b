"""OpenAI's API: its routes, and of its answers the models and embeddings. Bytes <-> types only.

Completions and chat, of models that write, are completions.py's and chat.py's; rerank is rerank.py's.

Served under --openai_route_prefix and without a prefix, where /v1/models is V1's route too (v1.py has it). Runs on the
event loop.
"""

from __future__ import annotations

from base64 import b64encode
from dataclasses import replace
from time import time
from typing import Annotated, Any, Literal, cast

import msgspec
import numpy as np
from msgspec import Meta
from starlette.routing import Route

from modelserve.errors import InvalidRequest
from modelserve.protocols.chat import ChatRequest, chat
from modelserve.protocols.chat_answer import ChatCompletion
from modelserve.protocols.completions import Completion, CompletionRequest, completions
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, Reply, encode, encode_many
from modelserve.protocols.http import ErrorBody, Function, endpoint, error_body
from modelserve.protocols.models import ModelCard, ModelList, adapter_card, model_card, model_list
from modelserve.protocols.openai_errors import OpenAIError, openai_error, read
from modelserve.protocols.openapi import REQUEST_ERRORS, Operation
from modelserve.protocols.rerank import Rerank, Reranked, rerank
from modelserve.protocols.usage import Usage, usage
from modelserve.types import InferRequest, Instance, Params, TokenIds

_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_INPUTS = [
    {"type": "string"},
    {"type": "array", "minItems": 1, "items": {"type": "string"}},
    _IDS,
    {"type": "array", "minItems": 1, "items": _IDS},
]


class EmbeddingRequest(msgspec.Struct):
    """The body of an embeddings request; other keys, such as `user`, are ignored."""

    model: str
    input: Annotated[str | list[str | int | list[int]], Meta(extra_json_schema={"anyOf": _INPUTS})]
    """A text, texts, the token ids of one text, or those of several. All elements are of one kind."""
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1)] | None = None
    """Length of the vectors, for models that were trained to be cut."""


class Embedding(msgspec.Struct):
    """A vector: numbers, or base64 of their little-endian float32."""

    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Embeddings(msgspec.Struct):
    """One vector per input, in their order."""

    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage
    id: str
    created: int


_embedding = msgspec.json.Decoder(EmbeddingRequest)
_EMBEDDING_EXAMPLE = {"model": "", "input": ["Paris is the capital of France."]}
_RERANK_EXAMPLE = {"model": "", "query": "What is the capital of France?", "documents": ["Paris.", "A cat sat."]}
_COMPLETION_EXAMPLE = {"model": "", "prompt": "The capital of France is", "max_tokens": 8}
_CHAT_EXAMPLE = {"model": "", "messages": [{"role": "user", "content": "What is the capital of France?"}]}
_PIECE = 64
"""Vectors to encode at a time: a millisecond for 384 numbers each."""
_INPUT = "it is a text, a list of texts, a list of token ids or a list of such lists"
_HINTS = {
    "model": "it names the model",
    "input": _INPUT,
    "encoding_format": "it is float or base64",
    "dimensions": "it is a number of 1 or more",
}


async def embeddings(exchange: Exchange) -> Reply:
    asked = await read(exchange, _embedding, _HINTS)
    model = exchange.model = exchange.context.models.get(asked.model)
    model.check_ready()
    if model.task_name != "text_embedding":
        raise InvalidRequest(
            f"Model {model.name} does not support Embeddings API; its task is {model.task_name}.", param="model"
        )
    params = Params(dimensions=asked.dimensions)
    inputs = await exchange.aside(instances, asked.input)
    response = await exchange.infer(model, InferRequest(model.name, inputs, params, id=exchange.id, api="openai"))
    data = [
        Embedding("embedding", index, _base64(vector) if asked.encoding_format == "base64" else vector)
        for index, vector in enumerate(response.predictions)
    ]
    tokens = sum(response.tokens)
    # Encoded already; the field keeps the type of what is in it, for the OpenAPI document.
    rows = cast("list[Embedding]", await encode_many(data, _PIECE))
    answer = Embeddings("list", rows, model.name, usage(tokens), exchange.id, int(time()))
    return Reply(encode(answer))


def instances(given: str | list[str | int | list[int]]) -> list[Instance]:
    """What `input` holds. Raises InvalidRequest for nothing and for a mixture."""
    if isinstance(given, str):
        return [given]
    kinds = {type(one) for one in given}
    if kinds == {str}:
        return cast("list[Instance]", given)
    if kinds == {int}:
        return [TokenIds(cast("list[int]", given))]
    if kinds == {list} and all(given):
        return [TokenIds(cast("list[int]", ids)) for ids in given]
    wrong = "is empty" if not given else "mixes texts and token ids" if len(kinds) > 1 else "has an empty list"
    raise InvalidRequest(f"input {wrong}; {_INPUT}.", param="input")


def _base64(vector: np.ndarray[Any, Any]) -> str:
    return b64encode(vector.astype("<f4", copy=False).tobytes()).decode("ascii")


async def list_models(exchange: Exchange) -> Reply:
    return Reply(encode(model_list(exchange.context.models)))


async def get_model(exchange: Exchange) -> Reply:
    name = exchange.params["model"]
    model = exchange.context.models.writer(name)
    return Reply(encode(model_card(model) if name == model.name else adapter_card(model, name)))


def error_bodies(context: Context) -> dict[str, ErrorBody]:
    """Everything under /v1 is OpenAI's but the models, which are V1's there."""
    ours: dict[str, ErrorBody] = {f"{prefix}/v1": openai_error for prefix in context.config.http_prefixes}
    return ours | {"/v1/models": error_body}


def routes(context: Context) -> list[Route]:
    def route(method: str, path: str, function: Function, operation: Operation) -> Route:
        return Route(path, endpoint(context, "openai", function, openai_error, operation=operation), methods=[method])

    rows: list[Route] = []
    for prefix in context.config.http_prefixes:
        at = f"{prefix}/v1"
        if prefix:
            rows += [
                route("GET", f"{at}/models", list_models, _operation("The models", ModelList)),
                route("GET", f"{at}/models/{{model}}", get_model, _operation("One model", ModelCard, errors=(404,))),
            ]
        rows.append(
            route(
                "POST",
                f"{at}/embeddings",
                embeddings,
                _operation("Embeddings", Embeddings, EmbeddingRequest, REQUEST_ERRORS, _EMBEDDING_EXAMPLE),
            )
        )
        reranking = _operation("Rerank documents", Reranked, Rerank, (*REQUEST_ERRORS, 501), _RERANK_EXAMPLE)
        rows += [route("POST", f"{prefix}/{version}/rerank", rerank, reranking) for version in ("v1", "v2")]
        writing = _operation("Completions", Completion, CompletionRequest, REQUEST_ERRORS, _COMPLETION_EXAMPLE)
        rows.append(route("POST", f"{at}/completions", completions, replace(writing, stream=True)))
        chatting = _operation("Chat completions", ChatCompletion, ChatRequest, REQUEST_ERRORS, _CHAT_EXAMPLE)
        rows.append(route("POST", f"{at}/chat/completions", chat, replace(chatting, stream=True)))
    return rows


def _operation(
    summary: str, answer: Any, request: Any = None, errors: tuple[int, ...] = (), example: Any = None
) -> Operation:
    return Operation(summary, answer, request=request, errors=errors, error=OpenAIError, example=example)
