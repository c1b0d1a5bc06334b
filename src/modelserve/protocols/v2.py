"""V2 (the Open Inference Protocol) over REST: metadata, inference with JSON or binary tensors, the model repository.

Bytes <-> tensors only: what the tensors mean is v2_infer.py's, which gRPC shares. Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType
from starlette.routing import Route

from modelserve.errors import InvalidRequest, NotSupported
from modelserve.protocols import tensors, v2_infer
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, JsonList, Reply, decode, encode, encode_many
from modelserve.protocols.http import Function, endpoint
from modelserve.protocols.openapi import REQUEST_ERRORS, Operation
from modelserve.protocols.v2_infer import to_outputs, to_parameters, to_request
from modelserve.runtime.model import Model
from modelserve.types import InferResponse, Tensor

HEADER_LENGTH = "inference-header-content-length"

Parameters = dict[str, Any]


class InputTensor(msgspec.Struct):
    """A named input. `data` is row-major, flat or nested; without it the tensor's bytes follow the JSON."""

    name: str
    shape: list[Annotated[int, Meta(ge=-1)]]
    """One size may be -1: whatever the data fill."""
    datatype: str
    parameters: Parameters | None = None
    data: list[Any] | UnsetType = UNSET


class WantedOutput(msgspec.Struct):
    """An output that the caller wants back. `parameters.binary_data` asks for its bytes."""

    name: str
    parameters: Parameters | None = None


class Infer(msgspec.Struct):
    """The body of an inference request, or its JSON part."""

    inputs: Annotated[list[InputTensor], Meta(min_length=1)]
    id: str | None = None
    parameters: Parameters | None = None
    outputs: list[WantedOutput] | None = None


class OutputTensor(msgspec.Struct):
    """A named output. `data` is row-major and flat; without it `parameters.binary_data_size` bytes follow the JSON."""

    name: str
    shape: list[int]
    datatype: str
    parameters: Parameters | None
    data: JsonList | UnsetType = UNSET


class Inferred(msgspec.Struct):
    """The answer to an inference request."""

    model_name: str
    model_version: str | None
    id: str
    parameters: Parameters | None
    outputs: list[OutputTensor]


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


_infer = msgspec.json.Decoder(Infer)


def model_of(exchange: Exchange) -> Model:
    """The model that the path names. Raises ModelNotFound."""
    return exchange.context.models.get(exchange.params["model"], exchange.params.get("version"))


async def infer(exchange: Exchange) -> Reply:
    model = model_of(exchange)
    model.check_ready()
    header_length = exchange.header(HEADER_LENGTH).strip()
    if not header_length:
        exchange.require_json()
    body = await exchange.body()
    size = _header_size(header_length, len(body)) if header_length else len(body)
    asked = decode(body[:size], _infer)
    inputs = list(_inputs(asked.inputs, memoryview(body)[size:]))
    parameters = asked.parameters or {}
    request = to_request(model.name, inputs, parameters, id=asked.id or exchange.id, api="v2")
    response = await exchange.infer(model, request)
    outputs = to_outputs(response, [output.name for output in asked.outputs or ()])
    binary = {output.name: (output.parameters or {}).get("binary_data") for output in asked.outputs or ()}
    everything = parameters.get("binary_data_output") is True
    as_bytes = [everything if binary.get(o.name) is None else binary[o.name] is True for o in outputs]
    given_version = exchange.params.get("version")
    if any(as_bytes):
        return await _binary_reply(response, given_version, outputs, as_bytes)
    described = [
        OutputTensor(
            o.name, list(o.shape), o.datatype, None, await encode_many(tensors.elements(o), tensors.ELEMENTS_PIECE)
        )
        for o in outputs
    ]
    answer = Inferred(response.model_name, given_version, response.id, to_parameters(response) or None, described)
    return Reply(encode(answer))


def _header_size(value: str, total: int) -> int:
    """Bytes of JSON at the start of a body with binary tensors."""
    if not (value.isascii() and value.isdigit()) or int(value[:20]) > total:
        raise InvalidRequest(
            f"{HEADER_LENGTH} is '{value[:40]}'; it must be the bytes of JSON that begin the body, of {total} in all.",
            param=HEADER_LENGTH,
        )
    return int(value)


def _inputs(given: Sequence[InputTensor], raw: memoryview) -> Iterator[Tensor]:
    """The inputs as tensors; `raw` are the bytes behind the JSON, taken in the order of the inputs."""
    for tensor in given:
        size = (tensor.parameters or {}).get("binary_data_size")
        if size is None:
            yield _of_json(tensor)
            continue
        if type(size) is not int or not 0 <= size <= len(raw):
            raise InvalidRequest(
                f"binary_data_size of input {tensor.name!r} is {size!r}; it must be a number of bytes, and "
                f"{len(raw)} are left after the JSON and the inputs before it.",
                param="binary_data_size",
            )
        yield tensors.of_bytes(tensor.name, tensor.datatype, tensor.shape, raw[:size])
        raw = raw[size:]
    if len(raw):
        raise InvalidRequest(f"{len(raw)} bytes are left behind the last input; binary_data_size says how many belong.")


def _of_json(tensor: InputTensor) -> Tensor:
    name, datatype = tensor.name, tensor.datatype.upper()
    if tensor.data is UNSET:
        raise InvalidRequest(f"Input {name!r} has neither data nor binary_data_size.", param="data")
    if datatype in ("FP16", "BF16"):
        raise InvalidRequest(f"{datatype} does not travel as JSON; send input {name!r} as binary data.", param="data")
    values = _flat(name, tensor.data)
    shape = _filled(tensor.shape, len(values))
    if datatype == "BYTES":
        if not all(type(value) is str for value in values):
            raise InvalidRequest(f"Input {name!r} is BYTES; each element of its data must be a string.", param="data")
        values = [value.encode() for value in values]
    return tensors.of_values(name, datatype, shape, values)


def _flat(name: str, data: list[Any]) -> list[Any]:
    while data and isinstance(data[0], list):
        if not all(isinstance(row, list) for row in data):
            raise InvalidRequest(f"The data of input {name!r} mix lists and single values.", param="data")
        data = list(chain.from_iterable(data))
    return data


def _filled(shape: list[int], count: int) -> list[int]:
    """The shape with its one -1 replaced by what `count` elements make it; without one, as it is."""
    others = prod(size for size in shape if size != -1)
    if shape.count(-1) != 1 or not others or count % others:
        return shape
    return [count // others if size == -1 else size for size in shape]


async def _binary_reply(
    response: InferResponse, given_version: str | None, outputs: Sequence[Tensor], as_bytes: Sequence[bool]
) -> Reply:
    """JSON, then the bytes of those outputs that were wanted so, in order."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor, binary in zip(outputs, as_bytes, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        if binary:
            parts.append(tensors.to_bytes(tensor))
            entry["parameters"] = {"binary_data_size": len(parts[-1])}
        else:
            entry["data"] = await encode_many(tensors.elements(tensor), tensors.ELEMENTS_PIECE)
        described.append(entry)
    head: dict[str, Any] = {"id": response.id, "model_name": response.model_name, "model_version": given_version}
    if parameters := to_parameters(response):
        head["parameters"] = parameters
    header = encode(head | {"outputs": described})
    return Reply(
        b"".join((header, *parts)),
        content_type=b"application/octet-stream",
        headers=((HEADER_LENGTH.encode(), b"%d" % len(header)),),
    )


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
_INFER = Operation("Infer", Inferred, request=Infer, binary=True, errors=REQUEST_ERRORS, example=_EXAMPLE)
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
