"""The body of V2's inference over REST: JSON, or JSON with the bytes of tensors behind it; both ways.

Bytes <-> tensors only: what the tensors mean is v2_infer.py's, which gRPC shares. Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from math import prod
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from modelserve.errors import InvalidRequest
from modelserve.protocols import tensors
from modelserve.protocols.aside import aside
from modelserve.protocols.exchange import Exchange, JsonList, Reply, decode, encode, encode_many
from modelserve.protocols.v2_infer import to_outputs, to_parameters
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

    inputs: Annotated[list[InputTensor], Meta(min_length=1, max_length=tensors.MAX_TENSORS)]
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


_MAX_DIGITS = 18  # int() of thousands of them is an error of its own
_PIECE = tensors.ELEMENTS_PIECE
_infer = msgspec.json.Decoder(Infer)


async def read(exchange: Exchange) -> tuple[Infer, list[Tensor]]:
    """The request and its tensors. With the header any content type will do, since tritonclient sends none."""
    header_length = exchange.header(HEADER_LENGTH).strip()
    if not header_length:
        exchange.require_json()
    body = await exchange.body()
    size = _header_size(header_length, len(body)) if header_length else len(body)
    return await exchange.aside(_parts, body, size)


def _parts(body: bytes, size: int) -> tuple[Infer, list[Tensor]]:
    asked = decode(body[:size], _infer)
    return asked, list(_inputs(asked.inputs, memoryview(body)[size:]))


def _header_size(value: str, total: int) -> int:
    """Bytes of JSON at the start of a body with binary tensors."""
    if not (value.isascii() and value.isdigit() and len(value) <= _MAX_DIGITS and int(value) <= total):
        raise InvalidRequest(
            f"{HEADER_LENGTH} is '{value[:40]}'; it must be the bytes of JSON that begin the body, of {total} in all.",
            param=HEADER_LENGTH,
        )
    return int(value)


def _inputs(given: Sequence[InputTensor], raw: memoryview) -> Iterator[Tensor]:
    """The inputs as tensors; `raw` are the bytes behind the JSON, taken in the order of the inputs."""
    for tensor in given:
        parameters = tensor.parameters or {}
        size, content_type = parameters.get("binary_data_size"), parameters.get("content_type")
        if size is None:
            yield tensors.read_as(_of_json(tensor), content_type)
            continue
        if type(size) is not int or not 0 <= size <= len(raw):
            raise InvalidRequest(
                f"binary_data_size of input {tensor.name!r} is {size!r}; it must be a number of bytes, and "
                f"{len(raw)} are left after the JSON and the inputs before it.",
                param="binary_data_size",
            )
        yield tensors.read_as(tensors.of_bytes(tensor.name, tensor.datatype, tensor.shape, raw[:size]), content_type)
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
    if shape.count(-1) != 1 or len(shape) > tensors.MAX_DIMENSIONS:
        return shape
    others = prod(size for size in shape if size != -1)
    if not others or count % others:
        return shape
    return [count // others if size == -1 else size for size in shape]


async def write(response: InferResponse, asked: Infer, version: str | None) -> Reply:
    """The outputs that were asked for, those as bytes that were asked for as bytes. `version`: as the path had it."""
    wanted = {output.name: (output.parameters or {}).get("binary_data") for output in asked.outputs or ()}
    everything = (asked.parameters or {}).get("binary_data_output") is True
    outputs = to_outputs(response, list(wanted))
    binary = [everything if wanted.get(output.name) is None else wanted[output.name] is True for output in outputs]
    if any(binary):
        return await _with_bytes(response, outputs, binary, version)
    described = [OutputTensor(o.name, list(o.shape), o.datatype, _said(o) or None, await _data(o)) for o in outputs]
    answer = Inferred(response.model_name, version, response.id, to_parameters(response) or None, described)
    return Reply(encode(answer))


async def _data(output: Tensor) -> JsonList:
    return await encode_many(await aside(tensors.weight(output), tensors.elements, output), _PIECE)


def _said(output: Tensor) -> Parameters:
    return {"content_type": output.content_type} if output.content_type else {}


async def _with_bytes(
    response: InferResponse, outputs: Sequence[Tensor], binary: Sequence[bool], version: str | None
) -> Reply:
    """JSON, then the bytes of those outputs that were wanted so, in order."""
    described: list[dict[str, Any]] = []
    parts: list[bytes] = []
    for tensor, as_bytes in zip(outputs, binary, strict=True):
        entry: dict[str, Any] = {"name": tensor.name, "shape": tensor.shape, "datatype": tensor.datatype}
        parameters = _said(tensor)
        if as_bytes:
            parts.append(await aside(tensors.weight(tensor), tensors.to_bytes, tensor))
            parameters["binary_data_size"] = len(parts[-1])
        else:
            entry["data"] = await _data(tensor)
        if parameters:
            entry["parameters"] = parameters
        described.append(entry)
    head: dict[str, Any] = {"id": response.id, "model_name": response.model_name, "model_version": version}
    if said := to_parameters(response):
        head["parameters"] = said
    header = encode(head | {"outputs": described})
    return Reply(
        b"".join((header, *parts)),
        content_type=b"application/octet-stream",
        headers=((HEADER_LENGTH.encode(), b"%d" % len(header)),),
    )
