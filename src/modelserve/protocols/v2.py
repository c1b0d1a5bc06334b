"""V2 (the Open Inference Protocol) over REST: metadata, inference, the model repository.

Routes and small answers; the bytes of an inference are v2_message.py's, what its tensors mean is v2_infer.py's, which
gRPC shares. Runs on the event loop.
"""

from __future__ import annotations

from typing import Literal

import msgspec
from starlette.routing import Route

from modelserve.errors import NotSupported
from modelserve.protocols import v2_infer
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, Reply, encode
from modelserve.protocols.http import Function, endpoint
from modelserve.protocols.openapi import REQUEST_ERRORS, Operation
from modelserve.protocols.v2_message import Infer, Inferred, read, write
from modelserve.runtime.model import Model


class ServerMetadata(msgspec.Struct):
    name: str
    version: str
    extensions: list[str]


class TensorMetadata(msgspec.Struct):
    """-1 is a size that varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelMetadata(msgspec.Struct):
    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorMetadata]
    outputs: list[TensorMetadata]


class ModelReady(msgspec.Struct):
    name: str
    ready: bool


class ModelNames(msgspec.Struct):
    models: list[str]


class IndexEntry(msgspec.Struct):
    name: str
    version: str
    state: Literal["READY", "LOADING", "UNAVAILABLE"]
    reason: str


class Loaded(msgspec.Struct):
    name: str
    load: bool


class Unloaded(msgspec.Struct):
    name: str
    unload: bool


def model_of(exchange: Exchange) -> Model:
    """The model that the path names. Raises ModelNotFound."""
    return exchange.context.models.get(exchange.params["model"], exchange.params.get("version"))


async def infer(exchange: Exchange) -> Reply:
    model = model_of(exchange)
    model.check_ready()
    asked, inputs = await read(exchange)
    request = await exchange.aside(
        v2_infer.to_request,
        model.name,
        inputs,
        asked.parameters or {},
        id=asked.id or exchange.id,
        api="v2",
        takes=model.takes,
        wanted=[output.name for output in asked.outputs or ()],
    )
    response = await exchange.infer(model, request)
    return await write(response, asked, exchange.params.get("version"))


async def server_metadata(exchange: Exchange) -> Reply:
    return Reply(encode(ServerMetadata(**v2_infer.server_metadata())))


async def list_models(exchange: Exchange) -> Reply:
    return Reply(encode(ModelNames(exchange.context.models.names())))


async def model_metadata(exchange: Exchange) -> Reply:
    model = model_of(exchange)
    inputs, outputs = (
        [TensorMetadata(spec.name, spec.datatype, list(spec.shape)) for spec in specs]
        for specs in (model.inputs(), model.outputs())
    )
    return Reply(encode(ModelMetadata(model.name, [v2_infer.VERSION], v2_infer.platform(model), inputs, outputs)))


async def model_ready(exchange: Exchange) -> Reply:
    """503 while the model cannot answer, so that a probe needs no JSON."""
    model = model_of(exchange)
    return Reply(encode(ModelReady(model.name, model.ready)), 200 if model.ready else 503)


async def index(exchange: Exchange) -> Reply:
    return Reply(encode([IndexEntry(**v2_infer.index_entry(model)) for model in exchange.context.models.index()]))


async def load(exchange: Exchange) -> Reply:
    _check_control(exchange)
    model = exchange.context.models.find(exchange.params["model"])
    await model.load()
    return Reply(encode(Loaded(model.name, True)))


async def unload(exchange: Exchange) -> Reply:
    _check_control(exchange)
    model = model_of(exchange)
    await model.unload()
    return Reply(encode(Unloaded(model.name, True)))


def _check_control(exchange: Exchange) -> None:
    if not exchange.context.config.enable_model_control:
        raise NotSupported("Models are not loaded or unloaded over the API here; --enable_model_control allows it.")


_EXAMPLE = {
    "inputs": [{"name": "input-0", "shape": [1], "datatype": "BYTES", "data": ["Paris is the capital of France."]}]
}
_ROWS_EXAMPLE = {
    "inputs": [{"name": "input-0", "shape": [1, 4], "datatype": "FP64", "data": [5.1, 3.5, 1.4, 0.2]}],
}
_INFER = Operation(
    "Infer",
    Inferred,
    request=Infer,
    binary=True,
    errors=REQUEST_ERRORS,
    example=_EXAMPLE,
    rows_example=_ROWS_EXAMPLE,
)
_METADATA = Operation("Metadata of a model: its inputs and outputs", ModelMetadata, errors=(404,))
_READY = Operation("Whether a model can answer", ModelReady, not_ready=ModelReady, errors=(404,))
_INDEX = Operation("The model repository: every model and its state", list[IndexEntry])
_LOAD = Operation("Load a model (needs --enable_model_control)", Loaded, errors=(404, 501))
_UNLOAD = Operation("Unload a model (needs --enable_model_control)", Unloaded, errors=(404, 501))


def routes(context: Context) -> list[Route]:
    def route(method: str, path: str, function: Function, operation: Operation, *, quiet: bool = False) -> Route:
        return Route(path, endpoint(context, "v2", function, operation=operation, quiet=quiet), methods=[method])

    rows = [
        route("GET", "/v2", server_metadata, Operation("Metadata of the server", ServerMetadata)),
        route("GET", "/v2/models", list_models, Operation("Names of the models", ModelNames)),
    ]
    for model in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        rows += [
            route("GET", model, model_metadata, _METADATA),
            route("GET", f"{model}/ready", model_ready, _READY, quiet=True),
            route("POST", f"{model}/infer", infer, _INFER),
        ]
    return [
        *rows,
        route("POST", "/v2/repository/index", index, _INDEX),
        route("GET", "/v2/repository/index", index, _INDEX),
        route("POST", "/v2/repository/models/{model}/load", load, _LOAD),
        route("POST", "/v2/repository/models/{model}/unload", unload, _UNLOAD),
    ]
