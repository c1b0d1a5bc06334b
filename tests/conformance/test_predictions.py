"""scikit-learn's and MLflow's models over every API: what the estimator itself answers, alone and in a crowd."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest

from modelserve.backends.rows import RowsBackend
from modelserve.types import Rows
from tests.conformance.apis import V2, Refused
from tests.conformance.serving import NAME, Serve, Served
from tests.estimators import DIABETES, IRIS, SKLEARN, TEXTS, estimator, mlflow_model, people

pytestmark = pytest.mark.asyncio(loop_scope="module")

PEOPLE = people().dropna().head(7)
OBJECTS = np.array(TEXTS, dtype=object)


@dataclass(frozen=True)
class Case:
    """An estimator, rows for it, and what it is asked."""

    name: str
    rows: Any
    method: str = "predict"
    parameters: dict[str, Any] = field(default_factory=dict)
    """Over V1 only: V2 names its outputs."""

    def __str__(self) -> str:
        return f"{self.name}-{self.method}"

    def expected(self, rows: Any) -> Any:
        """The estimator's own answer; that of several outputs as one array, filled up with zeros."""
        fitted = SKLEARN[self.name]()
        answer = getattr(fitted, self.method)(list(rows) if rows is OBJECTS else rows)
        if isinstance(answer, list):
            width = max(one.shape[1] for one in answer)
            return np.stack([np.pad(one, ((0, 0), (0, width - one.shape[1]))) for one in answer], axis=1)
        return answer


PROBABILITIES = {"return_probabilities": True}
CASES = [
    Case("classifier", IRIS[::20]),
    Case("classifier", IRIS[::20], "predict_proba", PROBABILITIES),
    Case("named_classifier", IRIS[::20]),
    Case("regressor", DIABETES[:9]),
    Case("two_regressors", DIABETES[:9]),
    Case("two_classifiers", IRIS[::20]),
    Case("two_classifiers", IRIS[::20], "predict_proba", PROBABILITIES),
    Case("scaler", IRIS[::20], "transform"),
    Case("frame_scaler", PEOPLE[["age", "income"]], "transform"),
    Case("table_pipeline", PEOPLE),
    Case("table_pipeline", PEOPLE, "predict_proba", PROBABILITIES),
    Case("text_classifier", OBJECTS),
    Case("text_classifier", OBJECTS, "predict_proba", PROBABILITIES),
]


def instances(rows: Any) -> list[Any]:
    """As V1 has them."""
    return rows.to_dict("records") if isinstance(rows, pd.DataFrame) else rows.tolist()


def tensors(rows: Any) -> dict[str, np.ndarray]:
    """As V2 has them: a column each, or one."""
    if not isinstance(rows, pd.DataFrame):
        return {"any-name": rows}
    return {name: rows[name].to_numpy(dtype=object if name == "city" else None) for name in rows}


def of_v2(outputs: dict[str, np.ndarray], method: str) -> np.ndarray:
    """The one output, without the dimension that MLServer gives to single values; a table's columns side by side."""
    if method in outputs:
        output = outputs[method]
        return output[:, 0] if output.shape[1:] == (1,) else output
    return np.hstack(list(outputs.values()))


def assert_same(answer: Any, expected: Any) -> None:
    expected = np.asarray(expected)
    if expected.dtype.kind in "OUS":
        assert np.asarray(answer).tolist() == expected.tolist()
    else:
        np.testing.assert_allclose(np.asarray(answer), expected, rtol=1e-9, atol=1e-12)


async def v1(served: Served, rows: list[Any], **parameters: Any) -> list[Any]:
    body = {"instances": rows, **({"parameters": parameters} if parameters else {})}
    answer = await served.http.post(f"/v1/models/{NAME}:predict", json=body)
    if answer.status_code != 200:
        raise Refused(answer.status_code, answer.json()["error"])
    predictions: list[Any] = answer.json()["predictions"]
    return predictions


async def served_estimator(serve: Serve, name: str) -> Served:
    return await serve(estimator(name), allow_pickle=True)


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_v1_is_the_estimators_own_answer(serve: Serve, case: Case) -> None:
    served = await served_estimator(serve, case.name)
    answer = await v1(served, instances(case.rows), **case.parameters)
    if case.name == "frame_scaler":
        assert list(answer[0]) == ["age", "income"]
        answer = [list(row.values()) for row in answer]
    assert_same(answer, case.expected(case.rows))


@pytest.mark.parametrize("api", V2)
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_v2_is_the_estimators_own_answer(serve: Serve, case: Case, api: str) -> None:
    served = await served_estimator(serve, case.name)
    given = {"content_type": "pd"} if isinstance(case.rows, pd.DataFrame) else {}
    outputs, _ = await V2[api](served, tensors(case.rows), given, [case.method])
    assert_same(of_v2(outputs, case.method), case.expected(case.rows))


@pytest.mark.parametrize("case", CASES, ids=str)
async def test_in_a_crowd_everybody_has_their_own_answer(
    serve: Serve, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests of one, two and three rows at once, over two APIs: calls are shared and no answer changes."""
    served = await served_estimator(serve, case.name)
    calls: list[int] = []
    forward = RowsBackend.forward

    def watched(self: RowsBackend, work: Sequence[Rows], *args: Any, **given: Any) -> list[Any]:
        calls.append(len(work))
        return forward(self, work, *args, **given)

    monkeypatch.setattr(RowsBackend, "forward", watched)
    expected = case.expected(case.rows)
    if isinstance(expected, pd.DataFrame):
        expected = expected.to_numpy()
    parts = [(start, start + 1 + start % 3) for start in range(len(case.rows) - 2)] * 4

    async def one(start: int, stop: int) -> None:
        rows = case.rows[start:stop]
        answer = await v1(served, instances(rows), **case.parameters)
        if case.name == "frame_scaler":
            answer = [list(row.values()) for row in answer]
        assert_same(answer, expected[start:stop])

    async def other(start: int, stop: int) -> None:
        outputs, _ = await V2["grpc-raw"](served, tensors(case.rows[start:stop]), {}, [case.method])
        assert_same(of_v2(outputs, case.method), expected[start:stop])

    await asyncio.gather(*(ask(*part) for part in parts for ask in (one, other)))
    assert sum(calls) == 2 * len(parts)
    assert len(calls) < sum(calls), "requests share calls"


async def test_a_request_that_is_refused_is_refused_alone(serve: Serve) -> None:
    served = await served_estimator(serve, "classifier")
    good, gap = [[5.1, 3.5, 1.4, 0.2]], [[5.1, None, 1.4, 0.2]]
    answers = await asyncio.gather(
        *(v1(served, gap if n % 5 == 2 else good) for n in range(30)), return_exceptions=True
    )
    for n, answer in enumerate(answers):
        if n % 5 == 2:
            assert isinstance(answer, Refused)
            assert answer.status == 400
            assert str(answer) == "the model refuses this input: Input X contains NaN."
        else:
            assert answer == [0]


@pytest.mark.parametrize(
    ("name", "given", "message"),
    [
        ("classifier", [[1.0, 2.0]], r"shape \[1, 2\]; the model takes N rows of 4 values, \[N, 4\]"),
        ("classifier", [1.0, 2.0], r"shape \[2\]"),
        ("classifier", [[[1.0]]], r"shape \[1, 1, 1\]"),
        ("classifier", [["a", 1, 2, 3]], "refuses this input: could not convert string to float: 'a'"),
        ("classifier", [[1, 2, 3, 4], [1]], "rows of different lengths"),
        ("classifier", [[1, 2, 3, {"a": 1}]], "rows of different lengths or depths"),
        ("classifier", [{"a": 1}], "knows no column names"),
        ("classifier", [{"a": 1}, [1]], "mix objects with other values"),
        ("classifier", ["a text"], r"shape \[1\]"),
        ("table_pipeline", [{"age": 5, "income": 1.0}], "column city is missing; the columns are age, income, city"),
        ("table_pipeline", [{"age": 5, "income": 1.0, "city": "Nowhere"}], "Found unknown categories"),
        ("table_pipeline", [{"age": "old", "income": 1.0, "city": "Trento"}], "refuses this input"),
        ("table_pipeline", [{"age": 1, "income": 1.0, "city": 5}], "refuses this input"),
        (
            "table_pipeline",
            [{"age": 1, "income": 1.0, "city": "Trento"}, {"age": 1, "income": 1.0, "city": 5}],
            "column city mixes texts and numbers",
        ),
        ("table_pipeline", [[1, 2]], "3 columns: age, income, city"),
        ("table_pipeline", [{}], "empty objects"),
        ("text_classifier", [[1.0]], "reads texts"),
    ],
)
async def test_rows_that_the_model_cannot_read(serve: Serve, name: str, given: Any, message: str) -> None:
    served = await served_estimator(serve, name)
    with pytest.raises(Refused, match=message) as refused:
        await v1(served, given)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "given",
    [
        [[40, 30000.0, "Trento"], [70, None, "Bolzano"]],
        [{"city": "Trento", "age": 40, "income": 30000.0, "more": 1}, {"age": 70, "city": "Bolzano"}],
        [{"age": [40, 70], "income": [30000.0, None], "city": ["Trento", "Bolzano"]}],
    ],
    ids=["lists", "objects, in any order", "an object of lists, as KServe reads it"],
)
async def test_every_way_to_write_a_table(serve: Serve, given: Any) -> None:
    served = await served_estimator(serve, "table_pipeline")
    table = pd.DataFrame({"age": [40, 70], "income": [30000.0, np.nan], "city": ["Trento", "Bolzano"]})
    assert await v1(served, given) == SKLEARN["table_pipeline"]().predict(table).tolist()


async def test_the_servers_flag_asks_for_probabilities(serve: Serve) -> None:
    served = await serve(estimator("classifier"), allow_pickle=True, return_probabilities=True)
    expected = SKLEARN["classifier"]().predict_proba(IRIS[:2])
    assert_same(await v1(served, IRIS[:2].tolist()), expected)
    assert await v1(served, IRIS[:2].tolist(), return_probabilities=False) == [0, 0]
    outputs, _ = await V2["v2-json"](served, {"x": IRIS[:2]}, {})
    assert list(outputs) == ["predict_proba"]


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("regressor", {"return_probabilities": True}, "no probabilities; it has predict"),
        ("classifier", {"top_k": 2}, "top_k means nothing to the task prediction"),
        ("classifier", {"return_probabilities": "yes"}, "return_probabilities"),
    ],
)
async def test_parameters_that_mean_nothing(serve: Serve, name: str, parameters: dict[str, Any], message: str) -> None:
    served = await served_estimator(serve, name)
    with pytest.raises(Refused, match=message) as refused:
        await v1(served, DIABETES[:1].tolist() if name == "regressor" else IRIS[:1].tolist(), **parameters)
    assert refused.value.status == 400


@pytest.mark.parametrize("api", V2)
async def test_mlflow_over_v2(serve: Serve, api: str) -> None:
    table = await serve(mlflow_model("mlflow_table"), allow_pickle=True)
    outputs, _ = await V2[api](table, tensors(PEOPLE), {})
    assert outputs["output-1"][:, 0].tolist() == SKLEARN["table_pipeline"]().predict(PEOPLE).tolist()
    own = await serve(mlflow_model("mlflow_own"), allow_pickle=True)
    columns = {"x": np.array([1.5, 2.0]), "n": np.array([3, 4])}
    outputs, _ = await V2[api](own, columns, {"factor": 10.0})
    assert outputs["output-1"].tolist() == [[18.0], [24.0]]
    frame = await serve(mlflow_model("mlflow_own_frame"), allow_pickle=True)
    outputs, _ = await V2[api](frame, {"x": columns["x"], "word": np.array(["a", "b"], dtype=object)}, {})
    assert outputs["double"].tolist() == [[3.0], [4.0]]
    assert outputs["upper"].tolist() == [["A"], ["B"]]
    array = await serve(mlflow_model("mlflow_array"), allow_pickle=True)
    outputs, _ = await V2[api](array, {"x": IRIS[::50].astype(np.float32)}, {})
    assert outputs["output-1"].tolist() == [[0], [1], [2]]


async def test_mlflow_over_v1(serve: Serve) -> None:
    table = await serve(mlflow_model("mlflow_table"), allow_pickle=True)
    assert await v1(table, instances(PEOPLE)) == SKLEARN["table_pipeline"]().predict(PEOPLE).tolist()
    own = await serve(mlflow_model("mlflow_own"), allow_pickle=True)
    assert await v1(own, [{"x": 1, "n": 3}]) == [5.0], "a whole number is a double too"
    assert await v1(own, [{"x": 1.5, "n": 3}], factor=10.0) == [18.0]
    frame = await serve(mlflow_model("mlflow_own_frame"), allow_pickle=True)
    assert await v1(frame, [{"x": 1.5, "word": "a"}]) == [{"double": 3.0, "upper": "A"}]
    array = await serve(mlflow_model("mlflow_array"), allow_pickle=True)
    assert await v1(array, IRIS[::50].tolist()) == [0, 1, 2]


async def test_a_models_own_faults_are_ours_and_its_refusals_are_the_callers(serve: Serve) -> None:
    served = await serve(mlflow_model("mlflow_own"), allow_pickle=True)
    answers = await asyncio.gather(*(v1(served, [{"x": 1.0, "n": n}]) for n in (1, -1, -2, 2)), return_exceptions=True)
    assert (answers[0], answers[3]) == ([3.0], [4.0])
    assert isinstance(answers[1], Refused)
    assert (answers[1].status, str(answers[1])) == (400, "the model refuses this input: n is -1; it must be 0 or more")
    assert isinstance(answers[2], Refused)
    assert (answers[2].status, str(answers[2])) == (500, "the model failed on this input")


async def test_other_apis_say_what_they_do_not_serve(serve: Serve) -> None:
    served = await served_estimator(serve, "classifier")
    for path, body in (
        ("/v1/embeddings", {"model": NAME, "input": "a text"}),
        ("/v1/rerank", {"model": NAME, "query": "a", "documents": ["b"]}),
    ):
        answer = await served.http.post(path, json=body)
        assert answer.status_code == 400
        assert "its task is prediction" in answer.json()["error"]["message"]
    described = (await served.http.get("/openapi.json")).json()
    request = described["paths"]["/v1/models/{model}:predict"]["post"]["requestBody"]["content"]["application/json"]
    assert request["example"] == {"instances": [[5.1, 3.5, 1.4, 0.2]]}
    assert (await served.http.post(f"/v1/models/{NAME}:predict", json=request["example"])).status_code == 200


async def test_a_cloud_event_of_rows(serve: Serve) -> None:
    served = await served_estimator(serve, "classifier")
    headers = {"ce-specversion": "1.0", "ce-id": "7", "ce-source": "garden", "ce-type": "flower"}
    answer: httpx.Response = await served.http.post(
        f"/v1/models/{NAME}:predict", json={"instances": IRIS[:1].tolist()}, headers=headers
    )
    assert answer.json() == {"predictions": [0]}
    assert answer.headers["ce-source"] == f"io.kserve.inference.{NAME}"
