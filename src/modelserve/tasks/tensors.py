"""Answers of models of features as V2's tensors, in MLServer's shapes: names, [N, 1] for a value a row, content types.

Pure functions. `tests/protocols/mlserver.json` has what MLServer itself answers.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

import msgspec
import numpy as np

from modelserve.tasks.base import Answer
from modelserve.types import Array, Tensor, datatype

UNNAMED = "output-1"
"""An output that nobody has named."""
CONTENT_TYPES: Mapping[str, str] = {"array": "np", "texts": "str", "table": "pd", "tensors": "dict"}
"""What MLServer's clients read a whole answer as."""


def of(name: str, answer: Answer) -> list[Tensor]:
    """One tensor, or one for each named column. `name`: of what has none."""
    if not isinstance(answer.values, dict):
        return [_tensor(name, answer.values, CONTENT_TYPES[answer.form])]
    content = "np" if answer.form == "tensors" else ""
    return [_tensor(column, values, content or _of_column(values)) for column, values in answer.values.items()]


def _of_column(values: Array) -> str:
    """Of a table's columns MLServer names the content of texts only."""
    return "str" if datatype(values.dtype) == "BYTES" else ""


def _tensor(name: str, values: Array, content_type: str) -> Tensor:
    shape = values.shape if values.ndim > 1 else (values.size, 1)
    kind = datatype(values.dtype)
    if kind == "BYTES":
        return Tensor(name, kind, shape, [_element(value) for value in _texts(values).ravel()], content_type)
    if kind == "FP16":  # has no place in JSON or in gRPC's contents
        kind, values = "FP32", values.astype(np.float32)
    elif values.dtype.itemsize > 8:
        values = values.astype(np.float64)
    return Tensor(name, kind, shape, values.reshape(shape), content_type)


def _texts(values: Array) -> Array:
    """Moments as texts, in ISO 8601; everything else as it is."""
    return np.datetime_as_string(values) if values.dtype.kind == "M" else values


def _element(value: Any) -> bytes:
    """A text as it is, bytes in base64 (as MLServer sends them), anything else as JSON."""
    if isinstance(value, str):
        return value.encode()
    if isinstance(value, bytes):
        return base64.b64encode(value)
    return msgspec.json.encode(value, enc_hook=_plain)


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else str(value)
