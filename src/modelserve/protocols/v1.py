"""V1 over REST: predict, explain (not offered), the models. Bytes <-> types only; runs on the event loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.routing import Route

from modelserve.errors import InvalidRequest, NotSupported
from modelserve.protocols import cloudevents, rows
from modelserve.protocols.cloudevents import Event, StructuredEvent
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, JsonList, Reply, decode, encode, encode_many, invalid
from modelserve.protocols.http import Function, endpoint
from modelserve.protocols.models import ModelCard, ModelList, model_card, model_list
from modelserve.protocols.openapi import REQUEST_ERRORS, Operation
from modelserve.protocols.tensors import ELEMENTS_PIECE, elements
from modelserve.types import InferRequest, InferResponse, Instance, Params, Takes, TextPair


class TextInstance(msgspec.Struct):
    """A text, or with `text_pair` two texts that are read together."""

    text: str
    text_pair: str | None = None


Instances = str | Annotated[list[str | TextInstance], Meta(min_length=1)]


class Predict(msgspec.Struct):
    """The body of a predict request. Where both are given, `inputs` wins over `instances`; other keys are ignored."""

    instances: Instances | UnsetType = UNSET
    inputs: Instances | UnsetType = UNSET
    parameters: Params | None = None


Row = list[Any] | dict[str, Any] | str | float


class PredictRows(msgspec.Struct):
    """The body of a predict request to a model of features: rows as lists, as objects of columns, or as texts.

    Where both are given, `inputs` wins over `instances`; other keys are ignored. `parameters` may hold the model's own.
    """

    instances: Annotated[list[Row], Meta(min_length=1)] | UnsetType = UNSET
    inputs: Annotated[list[Row], Meta(min_length=1)] | UnsetType = UNSET
    parameters: dict[str, Any] | None = None


class V1Tensor(msgspec.Struct):
    """A tensor beside the predictions, row-major and flat."""

    name: str
    datatype: str
    shape: Sequence[int]
    data: JsonList


class Predictions(msgspec.Struct):
    """One prediction per instance; what it looks like depends on the task."""

    predictions: JsonList
    outputs: list[V1Tensor] | UnsetType = UNSET
    parameters: dict[str, int] | UnsetType = UNSET


_PIECE = 64
"""Predictions to encode at a time: a millisecond for embeddings of 384."""
_EITHER = {"anyOf": [{"required": ["instances"]}, {"required": ["inputs"]}]}
_PREDICT = Annotated[Predict, Meta(extra_json_schema=_EITHER)]
_PREDICT_ROWS = Annotated[PredictRows, Meta(extra_json_schema=_EITHER)]


async def predict(exchange: Exchange) -> Reply:
    model = exchange.context.models.get(exchange.params["model"])
    model.check_ready()
    exchange.require_json()
    body = await exchange.body()
    request, event = await exchange.aside(read, exchange, body, model.name, model.takes)
    response = await exchange.infer(model, request)
    answer = encode(await to_answer(response))
    return cloudevents.reply(event, answer, model.name, exchange.context.config) if event else Reply(answer)


def read(exchange: Exchange, body: bytes, model_name: str, takes: Takes) -> tuple[InferRequest, Event | None]:
    """The request, and the CloudEvent to answer with one, if it came in one.

    An event that calls itself application/json is read too and answered plainly, as KServe does.
    """
    decoder, to_request = _READERS[takes]
    asked, event = decode(body, decoder), cloudevents.of_headers(exchange.headers)
    if event is None and exchange.media_type() == cloudevents.STRUCTURED:
        event = Event({}, structured=True)
    if asked.instances is UNSET and asked.inputs is UNSET and (unwrapped := cloudevents.of_body(body)):
        attributes, data = unwrapped
        asked = decode(data, decoder)
        event = Event(attributes, structured=True) if event else None
    return to_request(model_name, asked, exchange.id), event


def to_request(model_name: str, asked: Predict, id: str) -> InferRequest:
    given = asked.instances if asked.inputs is UNSET else asked.inputs
    if given is UNSET:
        raise _nothing('"a text"')
    instances: list[Instance] = [given] if isinstance(given, str) else [_instance(one) for one in given]
    return InferRequest(model_name, instances, asked.parameters or Params(), id=id, api="v1")


def _rows_to_request(model_name: str, asked: PredictRows, id: str) -> InferRequest:
    given = asked.instances if asked.inputs is UNSET else asked.inputs
    if given is UNSET:
        raise _nothing("[1.5, 2.0]")
    parameters = asked.parameters or {}
    try:
        params = msgspec.convert(parameters, Params)
    except msgspec.ValidationError as error:
        raise invalid(error) from error
    return InferRequest(model_name, rows.of_instances(given, parameters), params, id=id, api="v1")


def _nothing(example: str) -> InvalidRequest:
    return InvalidRequest(
        f'The body has neither instances nor inputs; send {{"instances": [{example}]}}.', param="instances"
    )


class _Reader(NamedTuple):
    """How a body is read, by what the model takes."""

    decoder: msgspec.json.Decoder[Any]
    to_request: Callable[[str, Any, str], InferRequest]


_READERS: Mapping[Takes, _Reader] = {
    "texts": _Reader(msgspec.json.Decoder(Predict), to_request),
    "rows": _Reader(msgspec.json.Decoder(PredictRows), _rows_to_request),
}


def _instance(given: str | TextInstance) -> Instance:
    if isinstance(given, str):
        return given
    return given.text if given.text_pair is None else TextPair(given.text, given.text_pair)


async def to_answer(response: InferResponse) -> Predictions:
    answer = Predictions(await encode_many(response.predictions, _PIECE))
    if response.outputs:
        answer.outputs = [
            V1Tensor(t.name, t.datatype, t.shape, await encode_many(elements(t), ELEMENTS_PIECE))
            for t in response.outputs
        ]
    if response.tokens_dropped:
        answer.parameters = {"tokens_dropped": response.tokens_dropped}
    return answer


async def explain(exchange: Exchange) -> Reply:
    exchange.context.models.get(exchange.params["model"])
    raise NotSupported("This server explains no predictions; predict is at the same path with :predict.")


async def list_models(exchange: Exchange) -> Reply:
    return Reply(encode(model_list(exchange.context.models)))


async def get_model(exchange: Exchange) -> Reply:
    """503 while the model cannot answer, so that a probe needs no JSON."""
    model = exchange.context.models.get(exchange.params["model"])
    return Reply(encode(model_card(model)), 200 if model.ready else 503)


def routes(context: Context) -> list[Route]:
    def route(method: str, path: str, function: Function, operation: Operation, *, quiet: bool = False) -> Route:
        return Route(path, endpoint(context, "v1", function, operation=operation, quiet=quiet), methods=[method])

    return [
        # Before the model itself: a name with a colon would swallow the verbs.
        route(
            "POST",
            "/v1/models/{model}:predict",
            predict,
            Operation(
                "Predict",
                Predictions,
                request=_PREDICT,
                rows=_PREDICT_ROWS,
                event=StructuredEvent,
                errors=REQUEST_ERRORS,
                example={"instances": ["Paris is the capital of France."]},
                rows_example={"instances": [[5.1, 3.5, 1.4, 0.2]]},
            ),
        ),
        route(
            "POST",
            "/v1/models/{model}:explain",
            explain,
            Operation("Explain a prediction (not offered)", errors=(404, 501)),
        ),
        route("GET", "/v1/models", list_models, Operation("The models, for V1's clients and OpenAI's", ModelList)),
        route(
            "GET",
            "/v1/models/{model}",
            get_model,
            Operation("One model and whether it can answer", ModelCard, not_ready=ModelCard, errors=(404,)),
            quiet=True,
        ),
    ]
