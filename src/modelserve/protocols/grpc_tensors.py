"""The tensors and parameters of gRPC messages <-> types.Tensor and plain values. Knows no RPC and no meaning.

Runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from modelserve import pb
from modelserve.errors import InvalidRequest
from modelserve.protocols import tensors
from modelserve.types import Tensor

FIELDS: dict[str, str] = {
    "BOOL": "bool_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
"""The field of InferTensorContents for each datatype; FP16 and BF16 have none."""


def inputs(request: Any) -> list[Tensor]:
    """The inputs of a ModelInferRequest, from its raw_input_contents or from each input's contents.

    Raises InvalidRequest when they are in both places, or do not fit the shapes and datatypes.
    """
    if len(request.inputs) > tensors.MAX_TENSORS:
        raise InvalidRequest(
            f"The request has {len(request.inputs)} inputs, at most {tensors.MAX_TENSORS} are allowed.", param="inputs"
        )
    raw = request.raw_input_contents
    if not raw:
        return [_typed(tensor) for tensor in request.inputs]
    for tensor in request.inputs:
        if tensor.HasField("contents"):
            raise InvalidRequest(
                "contents field must not be specified when using raw_input_contents for input "
                f"{tensor.name!r} for model {request.model_name!r}",
                param="inputs",
            )
    if len(request.inputs) != len(raw):
        raise InvalidRequest(
            f"the number of inputs ({len(request.inputs)}) does not match the expected number of raw input contents "
            f"({len(raw)}) for model {request.model_name!r}.",
            param="inputs",
        )
    return [
        _as_said(tensors.of_bytes(tensor.name, tensor.datatype, tensor.shape, data), tensor)
        for tensor, data in zip(request.inputs, raw, strict=True)
    ]


def _as_said(tensor: Tensor, message: Any) -> Tensor:
    """With the content type that the message says, where it says one."""
    return tensors.read_as(tensor, parameters(message).get("content_type")) if message.parameters else tensor


def _typed(tensor: Any) -> Tensor:
    datatype, shape, _ = tensors.checked(tensor.name, tensor.datatype, tensor.shape)
    field = FIELDS.get(datatype)
    if field is None:
        raise InvalidRequest(
            f"Input {tensor.name!r} is {datatype}, which travels in raw_input_contents only.", param="inputs"
        )
    for other, _ in tensor.contents.ListFields():
        if other.name != field:
            raise InvalidRequest(
                f"Input {tensor.name!r} is {datatype}, whose elements belong in {field}; {other.name} is set.",
                param="inputs",
            )
    return _as_said(tensors.of_values(tensor.name, datatype, shape, getattr(tensor.contents, field)), tensor)


def set_outputs(response: Any, outputs: Sequence[Tensor], *, raw: bool) -> None:
    """Put the outputs into a ModelInferResponse, as raw_output_contents or as typed contents."""
    for tensor in outputs:
        message = response.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if tensor.content_type:
            message.parameters["content_type"].string_param = tensor.content_type
        if raw:
            response.raw_output_contents.append(tensors.to_bytes(tensor))
        else:
            message.contents.MergeFromString(_contents(tensor))


def _contents(tensor: Tensor) -> bytes:
    """A tensor as an encoded InferTensorContents."""
    if tensor.datatype in ("FP32", "FP64"):
        # Packed floats look on the wire like a field of bytes, but for the tag in front: setting the elements one by
        # one takes twenty times as long.
        encoded: bytes = pb.InferTensorContents(bytes_contents=[tensors.to_bytes(tensor)]).SerializeToString()
        number = pb.InferTensorContents.DESCRIPTOR.fields_by_name[FIELDS[tensor.datatype]].number
        return bytes([number << 3 | 2]) + encoded[1:]
    data = tensor.data.ravel().tolist() if isinstance(tensor.data, np.ndarray) else tensor.data
    typed: bytes = pb.InferTensorContents(**{FIELDS[tensor.datatype]: data}).SerializeToString()
    return typed


def parameters(message: Any) -> dict[str, Any]:
    """The `parameters` map of a message as plain values; a parameter without a value is left out."""
    return {
        name: getattr(value, choice)
        for name, value in message.parameters.items()
        if (choice := value.WhichOneof("parameter_choice"))
    }


def set_parameters(message: Any, values: Mapping[str, int | str]) -> None:
    """Put integers and texts into a message's `parameters`."""
    for name, value in values.items():
        if isinstance(value, str):
            message.parameters[name].string_param = value
        else:
            message.parameters[name].int64_param = value
