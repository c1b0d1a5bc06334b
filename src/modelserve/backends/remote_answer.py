"""What of a remote predictor's answer is taken: one output, the numbers that were asked for, and no more. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from modelserve.datatypes import DTYPES
from modelserve.errors import PredictorFailed
from modelserve.types import Array, Tensor

DESCRIPTION_BYTES = 4 * 1024 * 1024
"""Most bytes of what a server says of a model, or of all its models."""


def most_bytes(numbers: int) -> int:
    """Of an answer with so many numbers, in JSON: 24 characters of a float64, a comma, some space; and the rest."""
    return 32 * numbers + DESCRIPTION_BYTES


def index_of(names: Sequence[str], output: str) -> int:
    """Where the output is. Raises PredictorFailed where it is not among them."""
    if output not in names:
        raise PredictorFailed(
            f"the remote predictor answered {', '.join(names) or 'nothing'}, and {output} was asked for"
        )
    return names.index(output)


def tensor(name: str, datatype: str, shape: Sequence[int], raw: bytes | None, numbers: Any = ()) -> Tensor:
    """The tensor of those bytes, or else of those numbers, which are float32 then, of whatever datatype they were.

    Raises PredictorFailed for what are no numbers, ValueError where they are not as many as the shape says.
    """
    dtype = DTYPES.get(datatype.upper())
    if dtype is None:
        raise PredictorFailed(f"the remote predictor answered {name} as {datatype.upper()}, which are no numbers")
    if raw is not None:
        return Tensor(name, datatype.upper(), tuple(shape), np.frombuffer(raw, dtype).reshape(tuple(shape)))
    return Tensor(name, "FP32", tuple(shape), numbers_of(numbers).astype(np.float32).reshape(tuple(shape)))


def numbers_of(values: Any) -> Array:
    """Numbers that came as JSON, [...]. Raises ValueError for anything else, null included."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iuf":
        raise ValueError("not all of it are numbers")
    return found
