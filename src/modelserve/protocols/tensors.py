"""Bytes and lists of V2's tensors, both ways, for REST and gRPC alike. Knows no message, no model and no task.

Everything that comes out of here is consistent: the number of elements is what the shape says.
Runs on the event loop.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modelserve.datatypes import DTYPES
from modelserve.errors import InvalidRequest
from modelserve.types import Tensor

# The kinds (numpy's letters) that the elements of a kind of datatype may be given as.
_KINDS = {"b": "b", "u": "iu", "i": "iu", "f": "fiu"}

# Far above what any body limit lets in, and within what numpy can hold.
_MAX_ELEMENTS = 2**31 - 1
MAX_DIMENSIONS = 32
MAX_TENSORS = 1024
"""Inputs of one request, which are columns of a table; a body of millions of them is refused unread."""

ELEMENTS_PIECE = 32768
"""Elements to write as JSON at a time: a millisecond."""

_ELEMENT_BYTES = 16
"""What an element of BYTES counts as, whatever its length: the walk from one to the next is what takes time."""


def checked(name: str, datatype: str, shape: Sequence[int]) -> tuple[str, tuple[int, ...], int]:
    """Datatype in upper case, shape, and number of elements of a tensor that a caller declared.

    Raises InvalidRequest for an unknown datatype and for a shape that no tensor has.
    """
    known = datatype.upper()
    if known != "BYTES" and known not in DTYPES:
        raise InvalidRequest(
            f"Input {name!r} has datatype {datatype!r}; V2 knows BYTES, {', '.join(DTYPES)}.", param="datatype"
        )
    # First, since the product of many sizes is a number of many digits.
    if len(shape) > MAX_DIMENSIONS:
        raise InvalidRequest(
            f"Input {name!r} has a shape that is too large: {len(shape)} sizes, at most {MAX_DIMENSIONS} are allowed.",
            param="shape",
        )
    if any(size < 0 for size in shape):
        raise InvalidRequest(f"Input {name!r} has shape {list(shape)}; sizes are 0 or more.", param="shape")
    if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
        raise InvalidRequest(f"Input {name!r} has a shape that is too large.", param="shape")
    return known, tuple(shape), math.prod(shape)


def of_values(name: str, datatype: str, shape: Sequence[int], values: Any) -> Tensor:
    """A tensor from its elements, flat and row-major: bytes for BYTES, else a sequence of numbers or an array.

    Raises InvalidRequest when they are not as many as the shape says, or do not fit the datatype.
    """
    datatype, shape, count = checked(name, datatype, shape)
    if len(values) != count:
        raise InvalidRequest(
            f"Input {name!r} has {len(values)} elements, but its shape {list(shape)} has {count}.", param="shape"
        )
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, list(values))
    dtype = DTYPES[datatype]
    try:
        given = np.array(values) if count else np.empty(0, dtype)
        if given.dtype.kind == "O" and dtype.kind == "f":
            given = _with_gaps(given)
        # The comparison finds what a cast changes (300 as INT8); rounding to a narrower float is no change.
        fits = given.ndim == 1 and given.dtype.kind in _KINDS[dtype.kind]
        array = given.astype(dtype, copy=False) if fits else given
        fits = fits and (dtype.kind == "f" or bool((array == given).all()))
    except ValueError:  # ragged, or strings among numbers
        fits = False
    if not fits:
        raise InvalidRequest(f"Input {name!r} has elements that are no {datatype}.", param="data")
    return Tensor(name, datatype, shape, array.reshape(shape))


def _with_gaps(given: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """null, which is how NaN is written in JSON, as NaN; unchanged where there is anything but that and numbers."""
    numbers = all(value is None or type(value) in (int, float) for value in given.flat)
    return given.astype(np.float64) if numbers else given


def read_as(tensor: Tensor, content_type: Any) -> Tensor:
    """The tensor with MLServer's content type, where that is a text."""
    return replace(tensor, content_type=content_type) if content_type and isinstance(content_type, str) else tensor


def of_bytes(name: str, datatype: str, shape: Sequence[int], raw: bytes | memoryview) -> Tensor:
    """A tensor from its binary form: little-endian, row-major; before each element of BYTES its length, a uint32.

    Raises InvalidRequest when the bytes are not as many as datatype and shape say.
    """
    datatype, shape, count = checked(name, datatype, shape)
    if datatype == "BYTES":
        return Tensor(name, datatype, shape, _split(name, shape, count, raw))
    dtype = DTYPES[datatype]
    if len(raw) != count * dtype.itemsize:
        raise InvalidRequest(
            f"Input {name!r} has {len(raw)} bytes, but {datatype} of shape {list(shape)} has {count * dtype.itemsize}.",
            param="shape",
        )
    return Tensor(name, datatype, shape, np.frombuffer(raw, dtype).reshape(shape))


def _split(name: str, shape: tuple[int, ...], count: int, raw: bytes | memoryview) -> list[bytes]:
    elements: list[bytes] = []
    at, end = 0, len(raw)
    while at < end and len(elements) < count:
        start = at + 4
        # A length that is cut off itself leaves no room for its element either.
        at = start + int.from_bytes(raw[at:start], "little") if start <= end else end + 1
        if at > end:
            raise InvalidRequest(f"Input {name!r} ends in the middle of its element {len(elements)}.", param="data")
        elements.append(bytes(raw[start:at]))
    if at != end or len(elements) != count:
        found = f"more than {count}" if at != end else len(elements)
        raise InvalidRequest(
            f"Input {name!r} has {found} elements, but its shape {list(shape)} has {count}.", param="shape"
        )
    return elements


def weight(tensor: Tensor) -> int:
    """About how many bytes there are to work through when a tensor is written; texts count by the element."""
    return tensor.data.nbytes if isinstance(tensor.data, np.ndarray) else len(tensor.data) * _ELEMENT_BYTES


def to_bytes(tensor: Tensor) -> bytes:
    """The binary form of a tensor, as `of_bytes` reads it."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.astype(DTYPES[tensor.datatype], copy=False).tobytes()
    return b"".join(part for element in tensor.data for part in (struct.pack("<I", len(element)), element))


def elements(tensor: Tensor) -> np.ndarray[Any, Any] | list[str]:
    """The elements of a tensor as JSON has them: flat, row-major; BYTES as strings."""
    if isinstance(tensor.data, np.ndarray):
        return tensor.data.ravel()
    return [element.decode() for element in tensor.data]
