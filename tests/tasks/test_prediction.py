"""Rows as the model takes them, and its answers in V1's and V2's form: without a model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from modelserve.config import Config
from modelserve.errors import InvalidRequest
from modelserve.tasks.base import Answer
from modelserve.tasks.columns import arranged
from modelserve.tasks.prediction import Prediction
from modelserve.types import Params, Rows, Signature, TensorSpec

METHODS = ("predict", "predict_proba")


def objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def signature(form: Any, *inputs: tuple[str, str, tuple[int, ...]], typed: bool = False) -> Signature:
    return Signature(form, tuple(TensorSpec(*one) for one in inputs), METHODS, typed=typed)


ARRAY = signature("array", ("input-0", "FP64", (-1, 3)))
ONE = signature("array", ("input-0", "FP64", (-1, 1)))
IMAGES = signature("array", ("input-0", "FP32", (-1, 2, -1)), typed=True)
TABLE = signature("table", ("a", "FP64", (-1, 1)), ("b", "BYTES", (-1, 1)))
TYPED = signature("table", ("a", "FP64", (-1, 1)), ("n", "INT32", (-1, 1)), ("b", "BYTES", (-1, 1)), typed=True)
TENSORS = signature("tensors", ("x", "FP32", (-1, 2)), ("y", "INT64", (-1,)), typed=True)


def same(found: Any, expected: Any) -> None:
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for name in expected:
            same(found[name], expected[name])
    else:
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("form", "given", "found"),
    [
        (ARRAY, np.ones((2, 3), int), np.ones((2, 3), int)),
        (ONE, np.array([1.0, 2.0]), np.array([[1.0], [2.0]])),
        (ARRAY, np.array([[1, None, 2.5]], dtype=object), np.array([[1.0, np.nan, 2.5]])),
        (ARRAY, np.array([["1", "2", "3"]], dtype=object), np.array([["1", "2", "3"]], dtype=object)),
        (IMAGES, np.ones((5, 2, 7)), np.ones((5, 2, 7), np.float32)),
        (TABLE, {"b": objects("x"), "a": np.array([1])}, {"a": np.array([1]), "b": objects("x")}),
        (
            TABLE,
            {"a": objects(1, None), "b": objects("x", None)},
            {"a": np.array([1, np.nan]), "b": objects("x", None)},
        ),
        (
            TABLE,
            {"a": np.array([[1.0]]), "b": objects("x"), "c": objects(1)},
            {"a": np.array([1.0]), "b": objects("x")},
        ),
        (TABLE, np.array([[1, "x"]], dtype=object), {"a": np.array([1.0]), "b": objects("x")}),
        (TABLE, np.array([[1.0, 2.0]]), np.array([[1.0, 2.0]])),
        (
            TYPED,
            {"a": np.array([1]), "n": np.array([2]), "b": objects("x")},
            {"a": np.array([1.0]), "n": np.array([2], np.int32), "b": objects("x")},
        ),
        (TYPED, {"a": np.array([1.5]), "n": np.array([2**40])}, {"a": np.array([1.5]), "n": np.array([2**40])}),
        (TENSORS, {"y": np.array([1]), "x": np.ones((1, 2))}, {"x": np.ones((1, 2), np.float32), "y": np.array([1])}),
        (signature("texts"), objects("a", "b"), objects("a", "b")),
        (signature("texts"), np.array([["a"], ["b"]], dtype=object), objects("a", "b")),
        (signature("any"), np.array([[1, None]], dtype=object), np.array([[1, np.nan]])),
        (signature("any"), {"a": objects(1, None)}, {"a": np.array([1, np.nan])}),
    ],
    ids=str,
)
def test_rows_are_arranged(form: Signature, given: Any, found: Any) -> None:
    same(arranged(given, form), found)


@pytest.mark.parametrize(
    ("form", "given", "message"),
    [
        (ARRAY, np.ones((2, 4)), r"shape \[2, 4\]; the model takes N rows of 3 values, \[N, 3\]"),
        (ONE, np.ones((2, 2)), r"the model takes N rows of 1 value, \[N, 1\]"),
        (ARRAY, {"a": np.ones(1)}, "knows no column names; send rows of 3 values as lists"),
        (IMAGES, np.ones((5, 3, 7)), r"N rows of 2 values, \[N, 2, -1\]"),
        (TABLE, {"a": np.ones(1)}, "column b is missing; the columns are a, b"),
        (TABLE, np.ones((1, 3)), r"the model takes N rows of 2 columns: a, b"),
        (TABLE, {"a": np.ones((1, 2)), "b": objects("x")}, r"column a has shape \[1, 2\]"),
        (TABLE, {"a": objects(1, "x"), "b": objects("x", "y")}, "column a mixes texts and numbers"),
        (TYPED, {"c": np.ones(1)}, "none of the model's columns is there; they are a, n, b"),
        (TENSORS, np.ones((1, 2)), "the model takes x, y, each by its name"),
        (signature("texts"), np.ones(2), "the model reads texts"),
        (signature("texts"), {"a": objects("x")}, "the model reads texts"),
        (signature("any"), np.array([[10**400]], dtype=object), "no float64 holds"),
    ],
    ids=str,
)
def test_rows_that_cannot_be_arranged(form: Signature, given: Any, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        arranged(given, form)


def task(form: Signature = ARRAY, **config: Any) -> Prediction:
    return Prediction(Config(**config), form)


@pytest.mark.parametrize(
    ("params", "wanted", "methods"),
    [
        (Params(), (), ("predict",)),
        (Params(return_probabilities=True), (), ("predict_proba",)),
        (Params(return_probabilities=False), (), ("predict",)),
        (Params(), ("predict_proba", "predict", "predict_proba"), ("predict_proba", "predict")),
        (Params(return_probabilities=True), ("predict",), ("predict",)),
    ],
)
def test_what_is_asked(params: Params, wanted: Sequence[str], methods: Sequence[str]) -> None:
    assert task().preprocess(Rows(np.ones((1, 3))), params, wanted).want == methods


def test_the_servers_flag_is_a_default() -> None:
    flag = task(return_probabilities=True)
    assert flag.preprocess(Rows(np.ones((1, 3))), Params(), ()).want == ("predict_proba",)
    assert flag.preprocess(Rows(np.ones((1, 3))), Params(return_probabilities=False), ()).want == ("predict",)


def test_only_the_models_own_options_reach_it() -> None:
    one = Signature("array", ARRAY.inputs, METHODS, options=frozenset({"factor", "top_k"}))
    rows = Rows(np.ones((1, 3)), options={"factor": 2, "other": 3, "top_k": 4})
    assert task(one).preprocess(rows, Params(top_k=4), ()).options == {"factor": 2, "top_k": 4}
    with pytest.raises(InvalidRequest, match="top_k means nothing to the task prediction"):
        task().preprocess(rows, Params(top_k=4), ())


def answered(*answers: tuple[str, Any, Any], by_method: bool = True) -> tuple[Prediction, dict[str, Answer]]:
    one = task(Signature("any", (), METHODS, by_method=by_method))
    return one, {method: Answer(values, form) for method, values, form in answers}


def test_numbers_and_classes() -> None:
    one, output = answered(("predict", np.array([1, 2]), "array"), ("predict_proba", np.ones((2, 3)), "array"))
    predict, probabilities = one.outputs(output)
    assert (predict.name, predict.datatype, predict.shape, predict.content_type) == ("predict", "INT64", (2, 1), "np")
    assert (probabilities.name, probabilities.datatype, probabilities.shape) == ("predict_proba", "FP64", (2, 3))
    assert one.content_type(output) == ""
    one, output = answered(("predict", np.array(["a", "b"]), "array"))
    assert one.predictions(output) == ["a", "b"]
    assert one.outputs(output)[0].data == [b"a", b"b"]


@pytest.mark.parametrize(
    ("values", "datatype", "data"),
    [
        (np.array([True, False]), "BOOL", [True, False]),
        (np.array([1, 2], np.uint8), "UINT8", [1, 2]),
        (np.array([1, 2], np.float16), "FP32", [1, 2]),
        (np.array([1, 2], np.longdouble), "FP64", [1, 2]),
        (np.array(["2026-01-02"], "datetime64[D]"), "BYTES", [b"2026-01-02"]),
        (objects("a", None, 1, b"hi"), "BYTES", [b"a", b"null", b"1", b"aGk="]),
        (objects({"a": np.float64(1)}, [np.arange(2)]), "BYTES", [b'{"a":1.0}', b"[[0,1]]"]),
    ],
    ids=str,
)
def test_every_datatype_has_a_tensor(values: Any, datatype: str, data: list[Any]) -> None:
    one, output = answered(("predict", values, "array"))
    (tensor,) = one.outputs(output)
    assert (tensor.datatype, tensor.shape) == (datatype, (len(values), 1))
    assert (tensor.data.ravel().tolist() if isinstance(tensor.data, np.ndarray) else tensor.data) == data


def test_tables_and_named_tensors() -> None:
    columns = {"a": np.array([1.0, 2.0]), "b": objects("x", "y")}
    one, output = answered(("predict", columns, "table"), by_method=False)
    assert one.predictions(output) == [{"a": 1.0, "b": "x"}, {"a": 2.0, "b": "y"}]
    assert [(t.name, t.shape, t.content_type) for t in one.outputs(output)] == [("a", (2, 1), ""), ("b", (2, 1), "str")]
    assert one.content_type(output) == "pd"
    one, output = answered(("predict", columns, "tensors"), by_method=False)
    assert [tensor.content_type for tensor in one.outputs(output)] == ["np", "np"]
    assert one.content_type(output) == "dict"
    one, output = answered(("predict", {"a": np.arange(2), "b": np.arange(3)}, "tensors"), by_method=False)
    assert one.predictions(output) == [{"a": [0, 1], "b": [0, 1, 2]}]
    one, output = answered(("predict", objects("x", "y"), "texts"), by_method=False)
    assert [(t.name, t.shape, t.content_type) for t in one.outputs(output)] == [("output-1", (2, 1), "str")]
    assert one.content_type(output) == "str"


def test_an_answer_is_taken_apart() -> None:
    one = task()
    rows = [Rows(np.zeros((n, 3)), METHODS) for n in (2, 1, 3)]
    given = {"predict": Answer(np.arange(6), "array"), "predict_proba": Answer({"a": np.arange(6)}, "table")}
    outputs = one.reduce(given.__getitem__, rows)
    assert [output["predict"].values.tolist() for output in outputs] == [[0, 1], [2], [3, 4, 5]]
    assert [output["predict_proba"].values["a"].tolist() for output in outputs] == [[0, 1], [2], [3, 4, 5]]


def test_the_size_of_an_answer_is_known_once_one_was_seen() -> None:
    one = task()
    rows = Rows(np.zeros((10, 3)), ("predict_proba",))
    before = one.answer_bytes(rows)
    specs = one.learn("predict_proba", {"predict_proba": Answer(np.zeros((1, 500)), "array")})
    assert [(spec.name, spec.shape) for spec in specs] == [("predict_proba", (-1, 500))]
    assert one.answer_bytes(rows) == 500 * before


def test_lengths_of_answers() -> None:
    assert Answer(np.zeros((3, 2)), "array").rows == 3
    assert Answer({"a": np.zeros(3), "b": np.zeros(3)}, "table").rows == 3
    assert Answer({"a": np.zeros(3), "b": np.zeros(2)}, "tensors").rows is None
