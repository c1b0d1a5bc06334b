"""V1's instances and V2's tensors as rows, and a sentence for what is none."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelserve.errors import InvalidRequest
from modelserve.protocols import rows, tensors
from modelserve.types import Rows, Tensor


def objects(values: Any) -> np.ndarray:
    return np.array(values, dtype=object)


def plain(found: Rows) -> Any:
    """Values and kinds, to be compared."""
    if isinstance(found.values, dict):
        return {name: (column.dtype.kind, column.tolist()) for name, column in found.values.items()}
    return found.values.dtype.kind, found.values.tolist()


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ([[1, 2], [3, 4]], ("i", [[1, 2], [3, 4]])),
        ([[1, 2.5]], ("f", [[1.0, 2.5]])),
        ([[True, False]], ("b", [[True, False]])),
        ([1, 2], ("i", [1, 2])),
        ([[1, "a"]], ("O", [[1, "a"]])),
        ([[1, None]], ("O", [[1, None]])),
        (["a", "b"], ("O", ["a", "b"])),
        ([[[1.0], [2.0]]], ("f", [[[1.0], [2.0]]])),
        ([[2**70]], ("O", [[2**70]])),
        ([{"a": 1, "b": "x"}, {"b": "y", "a": 2}], {"a": ("i", [1, 2]), "b": ("O", ["x", "y"])}),
        ([{"a": 1.5}, {"b": 2}], {"a": ("O", [1.5, None]), "b": ("O", [None, 2])}),
        ([{"a": [1, 2], "b": ["x", "y"]}], {"a": ("i", [1, 2]), "b": ("O", ["x", "y"])}),
    ],
    ids=str,
)
def test_instances(given: Any, found: Any) -> None:
    assert plain(rows.of_instances(given, {})) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([[1, 2], [3]], "rows of different lengths or depths"),
        ([[1, [2]]], "rows of different lengths or depths"),
        ([[1, {"a": 2}]], "rows of different lengths or depths"),
        ([[]] * 2 + [[1]], "rows of different lengths or depths"),
        ([{"a": 1}, [1]], "mix objects with other values"),
        ([{}], "empty objects"),
        ([{"a": [1, 2], "b": 3}], "not equally long"),
        ([{"a": [1, 2], "b": [3]}], "not equally long"),
        ([{"a": {"b": 1}}], "Column 'a'"),
    ],
    ids=str,
)
def test_instances_that_are_no_rows(given: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rows.of_instances(given, {})


def test_the_models_own_parameters() -> None:
    given = {"factor": 2, "top_k": 3, "content_type": "pd", "binary_data_output": True, "headers": {}}
    assert rows.of_instances([[1]], given).options == {"factor": 2, "top_k": 3}


X = Tensor("x", "FP64", (2, 1), np.array([[1.0], [2.0]]))
TEXT = Tensor("t", "BYTES", (2,), [b"a", "é".encode()])


@pytest.mark.parametrize(
    ("inputs", "content_type", "found"),
    [
        ([X], None, ("f", [[1.0], [2.0]])),
        ([X], "np", ("f", [[1.0], [2.0]])),
        ([X], "pd", {"x": ("f", [[1.0], [2.0]])}),
        ([X, TEXT], None, {"x": ("f", [[1.0], [2.0]]), "t": ("O", ["a", "é"])}),
        ([X, TEXT], "dict", {"x": ("f", [[1.0], [2.0]]), "t": ("O", ["a", "é"])}),
        ([TEXT], "str", ("O", ["a", "é"])),
        ([TEXT], "anything else", ("O", ["a", "é"])),
        ([Tensor("b", "BF16", (2,), np.array([0x3F80, 0xC000], "<u2"))], None, ("f", [1.0, -2.0])),
        ([tensors.read_as(Tensor("j", "BYTES", (2,), [b"[1]", b"null"]), "pd_json")], None, ("O", [[1], None])),
    ],
)
def test_tensors(inputs: list[Tensor], content_type: str | None, found: Any) -> None:
    parameters = {} if content_type is None else {"content_type": content_type}
    assert plain(rows.of_tensors(inputs, parameters)) == found


@pytest.mark.parametrize(
    ("inputs", "content_type", "message"),
    [
        ([X, X], "np", "content_type np is of one input, and there are 2; columns are pd"),
        ([X, Tensor("y", "FP64", (3,), np.zeros(3))], "pd", "'x' and 'y' have 2 and 3 rows"),
        ([Tensor("t", "BYTES", (1,), [b"\xff"])], None, "Element 0 of input 't' is not UTF-8 text"),
        ([tensors.read_as(Tensor("t", "BYTES", (1,), [b"{"]), "pd_json")], None, "Element 0 of input 't' is not JSON"),
        ([Tensor("t", "FP64", (), np.array(1.0))], None, "has no dimension"),
    ],
)
def test_tensors_that_are_no_rows(inputs: list[Tensor], content_type: str | None, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        rows.of_tensors(inputs, {"content_type": content_type})


def test_null_is_a_gap_among_numbers_only() -> None:
    found = tensors.of_values("x", "FP32", [3], [1, None, 2.5])
    np.testing.assert_array_equal(found.data, np.array([1, np.nan, 2.5], np.float32))
    for datatype, values in (("INT64", [1, None]), ("FP64", ["a", None]), ("FP64", [True, None])):
        with pytest.raises(InvalidRequest, match=f"no {datatype}"):
            tensors.of_values("x", datatype, [2], values)


def test_rows_tell_themselves_for_the_log() -> None:
    assert list(Rows(np.array([[1, 2], [3, 4]]))) == [[1, 2], [3, 4]]
    assert list(Rows({"a": np.array([1, 2]), "b": objects(["x", "y"])})) == [{"a": 1, "b": "x"}, {"a": 2, "b": "y"}]
    assert [len(Rows(np.zeros((3, 2)))), len(Rows({"a": np.zeros(4)}))] == [3, 4]
