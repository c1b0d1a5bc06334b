"""Rows of features: V1's instances and V2's tensors -> types.Rows. What they mean to the model is its task's affair.

V2's content types are MLServer's. Runs where a protocol reads its body: on the event loop, or on a thread for a large
one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from modelserve.errors import InvalidRequest
from modelserve.types import Array, Rows, Tensor

_PROTOCOLS = {"content_type", "headers", "binary_data_output"}
"""Parameters of the protocol; the others may be the model's own."""


def of_tensors(inputs: Sequence[Tensor], parameters: Mapping[str, Any]) -> Rows:
    """The rows in these V2 inputs.

    Columns by the inputs' names where there are several of them, or where content_type is pd (or dict); one array or a
    list of texts otherwise. Raises InvalidRequest.
    """
    content_type = parameters.get("content_type")
    if content_type in ("pd", "dict") or (len(inputs) > 1 and content_type not in ("np", "str")):
        return Rows(_columns(inputs), options=_options(parameters))
    if len(inputs) == 1:
        return Rows(_array(inputs[0]), options=_options(parameters))
    raise InvalidRequest(
        f"content_type {content_type} is of one input, and there are {len(inputs)}; columns are pd.",
        param="content_type",
    )


def of_instances(given: Sequence[Any], parameters: Mapping[str, Any]) -> Rows:
    """The rows in these V1 instances: lists of values, objects of values by column, texts, or numbers.

    Raises InvalidRequest.
    """
    return Rows(_values(given), options=_options(parameters))


def _options(parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in parameters.items() if name not in _PROTOCOLS}


def _columns(inputs: Sequence[Tensor]) -> dict[str, Array]:
    columns = {tensor.name: _array(tensor) for tensor in inputs}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        name, other = min(lengths, key=lengths.__getitem__), max(lengths, key=lengths.__getitem__)
        raise InvalidRequest(
            f"Inputs {name!r} and {other!r} have {lengths[name]} and {lengths[other]} rows; columns are equally long.",
            param="shape",
        )
    return columns


def _array(tensor: Tensor) -> Array:
    if not tensor.shape:
        raise InvalidRequest(f"Input {tensor.name!r} has no dimension; N rows are [N, …].", param="shape")
    if isinstance(tensor.data, np.ndarray):
        if tensor.datatype != "BF16":
            return tensor.data
        # The upper half of a float32, which is all that numpy knows of it.
        return (tensor.data.astype(np.uint32) << 16).view(np.float32)
    read = msgspec.json.decode if tensor.content_type == "pd_json" else bytes.decode
    elements = np.empty(len(tensor.data), dtype=object)
    for index, element in enumerate(tensor.data):
        try:
            elements[index] = read(element)
        except (UnicodeDecodeError, msgspec.DecodeError) as error:
            kind = "JSON" if tensor.content_type == "pd_json" else "UTF-8 text"
            raise InvalidRequest(f"Element {index} of input {tensor.name!r} is not {kind}.", param="inputs") from error
    return elements.reshape(tensor.shape)


def _values(given: Sequence[Any]) -> Array | dict[str, Array]:
    kinds = {type(one) for one in given}
    if dict not in kinds:
        return _nested(given)
    if kinds != {dict}:
        raise InvalidRequest("The instances mix objects with other values; one kind for all.", param="instances")
    rows = [row for one in given for row in _rows(one)]
    names = dict.fromkeys(name for row in rows for name in row)
    if not names:
        raise InvalidRequest("The instances are empty objects; a row has a value for each column.", param="instances")
    return {name: _nested([row.get(name) for row in rows], name) for name in names}


def _rows(one: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """An object of values is a row; an object of equally long lists is as many, as KServe reads it."""
    lengths = {len(value) if isinstance(value, list) else None for value in one.values()}
    if lengths == {None} or not lengths:
        return [one]
    if len(lengths) > 1:
        raise InvalidRequest(
            "An instance has columns that are not equally long; a row has one value for each column.", param="instances"
        )
    return [dict(zip(one, row, strict=True)) for row in zip(*one.values(), strict=True)]


def _nested(given: Sequence[Any], name: str = "") -> Array:
    """Numbers as an array of numbers; where there is anything else among them, of objects."""
    try:
        array = np.array(given)
        if array.dtype.kind not in "biuf":
            array = np.array(given, dtype=object)  # numpy would make texts of numbers beside texts
    except (ValueError, OverflowError) as error:
        where = f"Column {name!r}" if name else "The instances"
        raise InvalidRequest(f"{where} have rows of different lengths or depths.", param="instances") from error
    if array.dtype.kind == "O" and any(isinstance(value, list | dict) for value in array.flat):
        where = f"Column {name!r}" if name else "The instances"
        raise InvalidRequest(f"{where} have rows of different lengths or depths.", param="instances")
    return array
