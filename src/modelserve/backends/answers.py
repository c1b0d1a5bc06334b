"""What models of features return, as an Answer: arrays, lists, sparse matrices, data frames, dictionaries of arrays.

Knows the libraries by what their objects can do, and imports none of them. Runs in a backend thread.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelserve.tasks.base import Answer
from modelserve.types import Array

_NUMBERS = (bool, int, float, np.number, np.bool_)


def of(result: Any) -> Answer:
    """The same values on the host, in one of the forms that a task knows."""
    if hasattr(result, "toarray"):  # scipy's sparse matrices
        return Answer(result.toarray(), "array")
    if hasattr(result, "columns") and hasattr(result, "to_numpy"):  # pandas, polars
        return Answer({str(name): _array(result[name].to_numpy()) for name in result.columns}, "table")
    if hasattr(result, "to_numpy"):  # a Series
        return Answer(_array(result.to_numpy()), "array")
    if isinstance(result, dict) and result and all(isinstance(v, np.ndarray) and v.ndim for v in result.values()):
        return Answer({str(name): _array(value) for name, value in result.items()}, "tensors")
    if isinstance(result, list) and result:
        if all(isinstance(one, str) for one in result):
            return Answer(_objects(result), "texts")
        if all(isinstance(one, np.ndarray) and one.ndim == 2 and len(one) == len(result[0]) for one in result):
            return Answer(_stacked(result), "array")
    if isinstance(result, np.ndarray) and result.ndim:
        return Answer(_array(result), "array")
    return Answer(_array(_objects(result if isinstance(result, list | tuple) else [result])), "array")


def _stacked(results: Sequence[Array]) -> Array:
    """The probabilities of several outputs, [N, outputs, classes]; a class that an output does not have has none."""
    classes = max(one.shape[1] for one in results)
    filled = np.zeros((len(results[0]), len(results), classes))
    for output, one in enumerate(results):
        filled[:, output, : one.shape[1]] = one
    return filled


def _array(values: Array) -> Array:
    """Objects that are all numbers, as numbers."""
    if values.dtype.kind == "O" and values.size and all(isinstance(one, _NUMBERS) for one in values.flat):
        return np.array(values.tolist())
    return values


def _objects(values: Sequence[Any]) -> Array:
    array = np.empty(len(values), dtype=object)
    for index, value in enumerate(values):
        array[index] = value
    return array
