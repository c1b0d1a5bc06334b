"""Rows as they came, as the model takes them: columns in its order, their datatypes, and a sentence for what cannot be.

Pure functions of arrays. Runs in a thread of the pool, before the queue.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from modelserve.errors import InvalidRequest
from modelserve.types import Array, Signature, TensorSpec

Values = Array | dict[str, Array]

_DTYPES = {
    f"{name}{8 * size}": np.dtype(f"{letter}{size}")
    for name, letter, sizes in (("INT", "i", (1, 2, 4, 8)), ("UINT", "u", (1, 2, 4, 8)), ("FP", "f", (2, 4, 8)))
    for size in sizes
}
_NUMBERS = (int, float)


def arranged(values: Values, signature: Signature) -> Values:
    """The values in the form that the signature says. Raises InvalidRequest."""
    match signature.form:
        case "array":
            return _array(values, signature)
        case "table":
            return _table(values, signature)
        case "tensors":
            return _tensors(values, signature)
        case "texts":
            return _texts(values)
    return _untyped(values)


def _array(values: Values, signature: Signature) -> Array:
    (spec,) = signature.inputs
    if isinstance(values, dict):
        raise InvalidRequest(f"the model knows no column names; send rows of {_size(spec)} as lists")
    if values.ndim == 1 and spec.shape == (-1, 1):
        values = values.reshape(-1, 1)
    if len(values.shape) != len(spec.shape) or any(
        size not in (-1, given) for size, given in zip(spec.shape[1:], values.shape[1:], strict=True)
    ):
        raise InvalidRequest(
            f"the rows have shape {list(values.shape)}; the model takes N rows of {_size(spec)}, "
            f"[N, {', '.join(str(size) for size in spec.shape[1:])}]",
            param="shape",
        )
    values = _numbers(values)
    return _cast(values, spec) if signature.typed else values


def _size(spec: TensorSpec) -> str:
    count = math.prod(size for size in spec.shape[1:] if size != -1)
    return f"{count} value" if count == 1 else f"{count} values"


def _table(values: Values, signature: Signature) -> Values:
    names = [spec.name for spec in signature.inputs]
    if isinstance(values, dict):
        missing = [name for name in names if name not in values]
        if missing and not signature.typed:
            raise InvalidRequest(f"column {missing[0]} is missing; the columns are {_listed(names)}", param=missing[0])
        columns = {spec.name: _column(spec, values[spec.name]) for spec in signature.inputs if spec.name in values}
        if not columns:
            raise InvalidRequest(f"none of the model's columns is there; they are {_listed(names)}")
    else:
        if values.ndim == 1 and len(names) == 1:
            values = values.reshape(-1, 1)
        if values.ndim != 2 or values.shape[1] != len(names):
            raise InvalidRequest(
                f"the rows have shape {list(values.shape)}; the model takes N rows of {len(names)} columns: "
                f"{_listed(names)}",
                param="shape",
            )
        if values.dtype.kind != "O" and not signature.typed:
            return values
        columns = {spec.name: _column(spec, values[:, at]) for at, spec in enumerate(signature.inputs)}
    if not signature.typed:
        return columns
    return {spec.name: _cast(columns[spec.name], spec) for spec in signature.inputs if spec.name in columns}


def _column(spec: TensorSpec, values: Array) -> Array:
    """One value for each row, all of one kind."""
    if values.shape[1:] == (1,):
        values = values[:, 0]
    if values.ndim != 1:
        raise InvalidRequest(
            f"column {spec.name} has shape {list(values.shape)}; a value for each of N rows is [N] or [N, 1]",
            param=spec.name,
        )
    if values.dtype.kind != "O":
        return values
    kinds = {type(value) for value in values}
    if str in kinds and kinds & {int, float, bool}:
        raise InvalidRequest(f"column {spec.name} mixes texts and numbers", param=spec.name)
    return _numbers(values)


def _tensors(values: Values, signature: Signature) -> dict[str, Array]:
    if not isinstance(values, dict):
        if len(signature.inputs) > 1:
            raise InvalidRequest(
                f"the model takes {_listed([spec.name for spec in signature.inputs])}, each by its name"
            )
        values = {signature.inputs[0].name: values}
    return {spec.name: _cast(_numbers(values[spec.name]), spec) for spec in signature.inputs if spec.name in values}


def _texts(values: Values) -> Array:
    if isinstance(values, np.ndarray):
        flat = values[:, 0] if values.shape[1:] == (1,) else values
        if flat.ndim == 1 and all(isinstance(text, str) for text in flat):
            return flat
    raise InvalidRequest('the model reads texts, one for each row: send them as a list, such as ["a text"]')


def _untyped(values: Values) -> Values:
    """For a model that has not said what it takes."""
    if isinstance(values, np.ndarray):
        return _numbers(values)
    return {name: _column(TensorSpec(name, "", ()), column) for name, column in values.items()}


def _numbers(values: Array) -> Array:
    """Objects that are numbers, some of them missing, as numbers; texts and mixtures as they are."""
    if values.dtype.kind != "O":
        return values
    kinds = {type(value) for value in values.flat}
    if not kinds & set(_NUMBERS) or not kinds <= {*_NUMBERS, bool, type(None)}:
        return values
    try:
        return values.astype(np.float64)
    except OverflowError as error:
        raise InvalidRequest("there is a number among the rows that no float64 holds") from error


def _cast(values: Array, spec: TensorSpec) -> Array:
    """In the datatype that the model insists on, where that changes no value; JSON has only one kind of number."""
    dtype = _DTYPES.get(spec.datatype)
    if dtype is None or values.dtype == dtype or values.dtype.kind not in ("iuf" if dtype.kind == "f" else "iu"):
        return values
    cast = values.astype(dtype)
    return cast if dtype.kind == "f" or bool((cast == values).all()) else values


def _listed(names: Sequence[Any]) -> str:
    shown = [str(name) for name in names[:20]]
    return ", ".join(shown) + (f" and {len(names) - 20} more" if len(names) > 20 else "")
