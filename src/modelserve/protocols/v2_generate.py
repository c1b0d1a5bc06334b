"""V2's generate extension: one text in, one text out, whole or as a stream. Bytes <-> types only.

As Triton documents it: `parameters`, or their keys beside `text_input`. They are V1's and V2's request parameters, and
two of Triton's own. Runs on the event loop.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.routing import Route

from modelserve.errors import InvalidRequest
from modelserve.generation import GenerateRequest
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Chunks, Exchange, Reply, encode, invalid
from modelserve.protocols.generation import asks, generative, writing, written
from modelserve.protocols.http import endpoint
from modelserve.protocols.openapi import REQUEST_ERRORS, Operation
from modelserve.protocols.patience import patience
from modelserve.protocols.sse import event
from modelserve.protocols.v2_infer import VERSION
from modelserve.runtime.asked import USUAL_TOKENS, sampling_of
from modelserve.runtime.model import Model
from modelserve.types import Params

Value = str | float | bool | list[str] | None


class Own(msgspec.Struct, frozen=True):
    """Parameters of the extension itself. stream: only what the path says anyway."""

    stream: bool | None = None
    exclude_input_in_output: bool | None = None
    """False: the text begins with the input."""


class GenerateV2(msgspec.Struct):
    """The body of a generate request. Parameters may stand beside text_input too; unknown ones are refused."""

    text_input: str
    parameters: dict[str, Value] | None = None
    id: str | None = None


class GeneratedText(msgspec.Struct):
    """In a stream, a further part of the text."""

    model_name: str
    model_version: str
    text_output: str


_decoder = msgspec.json.Decoder(dict[str, Any])
_FIELDS = {*GenerateV2.__struct_fields__}
_PARAMETERS = {*Params.__struct_fields__, *Own.__struct_fields__}


async def generate(exchange: Exchange) -> Reply:
    model, request = await _asked(exchange, stream=False)
    async with patience(exchange):
        generated = await written(exchange, model, request)
    return Reply(encode(GeneratedText(request.model_name, VERSION, generated.choices[0].text)))


async def generate_stream(exchange: Exchange) -> Reply:
    model, request = await _asked(exchange, stream=True)
    return Reply(b"", chunks=_chunks(exchange, model, request))


async def _chunks(exchange: Exchange, model: Model, request: GenerateRequest) -> Chunks:
    async with writing(exchange, model, request) as generation:
        empty = True
        async for piece in generation:
            if piece.text or (piece.finish is not None and empty):
                empty = False
                yield event(GeneratedText(request.model_name, VERSION, piece.text))


async def _asked(exchange: Exchange, *, stream: bool) -> tuple[Model, GenerateRequest]:
    model = generative(exchange, exchange.params["model"], "the generate extension", exchange.params.get("version"))
    body = await exchange.json(_decoder)
    request = await exchange.aside(to_request, body, model, exchange.params["model"], exchange.id, stream=stream)
    asks(exchange, model, request.prompts)
    return model, request


def to_request(body: dict[str, Any], model: Model, name: str, id: str, *, stream: bool) -> GenerateRequest:
    """name: the one that was asked for. Raises InvalidRequest."""
    beside = {name: value for name, value in body.items() if name not in _FIELDS}
    try:
        asked = msgspec.convert(body, GenerateV2)
        parameters = beside | (asked.parameters or {})
        if unknown := parameters.keys() - _PARAMETERS:
            name = min(unknown)[:80]
            raise InvalidRequest(f"{name} is no parameter that is known here.", param=name)
        own = msgspec.convert(parameters, Own, strict=False)
        params = msgspec.convert(parameters, Params, strict=False)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    if own.stream is not None and own.stream != stream:
        path = "generate_stream" if own.stream else "generate"
        raise InvalidRequest(f"stream is {str(own.stream).lower()}; that is asked for at …/{path}.", param="stream")
    return GenerateRequest(
        model_name=name,
        prompts=[asked.text_input],
        sampling=sampling_of(params, model.task_name or ""),
        usual_tokens=USUAL_TOKENS,
        echo=own.exclude_input_in_output is False,
        id=asked.id or id,
        api="v2",
    )


_EXAMPLE = {"text_input": "The capital of France is", "parameters": {"max_tokens": 8}}


def routes(context: Context) -> list[Route]:
    whole = Operation("Generate a text", GeneratedText, GenerateV2, REQUEST_ERRORS, example=_EXAMPLE)
    stream = Operation(
        "Generate a text as a stream",
        request=GenerateV2,
        errors=REQUEST_ERRORS,
        media=("text/event-stream",),
        example=_EXAMPLE,
    )
    return [
        Route(f"{model}/{verb}", endpoint(context, "v2", function, operation=operation), methods=["POST"])
        for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}")
        for verb, function, operation in (("generate", generate, whole), ("generate_stream", generate_stream, stream))
    ]
