"""V1 over REST: what is read, what is answered, what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from modelserve.types import InferRequest, InferResponse, Params, Tensor, TextPair
from tests.protocols.rest import StandIn, client

PREDICT = "/v1/models/m:predict"


@pytest.mark.parametrize(
    ("body", "instances"),
    [
        ({"instances": ["a", "b"]}, ["a", "b"]),
        ({"inputs": ["a"]}, ["a"]),
        ({"inputs": ["a"], "instances": ["x", "y"]}, ["a"]),
        ({"instances": "one text"}, ["one text"]),
        ({"instances": [""]}, [""]),
        ({"instances": ["a"], "signature_name": "x", "foo": [1]}, ["a"]),
        ({"instances": [{"text": "a"}]}, ["a"]),
        ({"instances": [{"text": "a", "text_pair": "b"}, "c"]}, [TextPair("a", "b"), "c"]),
        ({"instances": [{"text": "a", "text_pair": None, "more": 1}]}, ["a"]),
        ({"instances": ["日本語 🙂 \u0000 é"]}, ["日本語 🙂 \u0000 é"]),
    ],
)
async def test_the_texts_of_a_request(body: Any, instances: list[Any]) -> None:
    model = StandIn()
    async with client(model) as http:
        answer = await http.post(PREDICT, json=body)
    assert answer.status_code == 200
    assert answer.content == json.dumps({"predictions": answer.json()["predictions"]}, separators=(",", ":")).encode()
    (request,) = model.requests
    assert request.instances == instances
    assert (request.model_name, request.api, request.form, request.raw) == ("m", "v1", "json", False)


async def test_parameters_of_a_request() -> None:
    model = StandIn()
    parameters = {"top_k": 3, "targets": ["paris"], "truncation": "left", "return_labels": True, "unknown": 1}
    async with client(model) as http:
        await http.post(PREDICT, json={"instances": ["a"], "parameters": parameters})
        await http.post(PREDICT, json={"instances": ["a"], "parameters": None})
    assert [request.params for request in model.requests] == [
        Params(top_k=3, targets=["paris"], truncation="left", return_labels=True),
        Params(),
    ]


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"instances": [1]}, "instances[0]"),
        ({"instances": ["a", None]}, "instances[1]"),
        ({"instances": [["a", "b"]]}, "instances[0]"),
        ({"instances": [{"text": 1}]}, "instances[0].text"),
        ({"instances": [{}]}, "instances[0]"),
        ({"instances": {"text": "a"}}, "instances"),
        ({"inputs": 5}, "inputs"),
        ({"instances": ["a"], "parameters": []}, "parameters"),
        ({"instances": ["a"], "parameters": {"top_k": "3"}}, "parameters.top_k"),
        ({"instances": ["a"], "parameters": {"truncation": "middle"}}, "parameters.truncation"),
    ],
)
async def test_a_refusal_names_the_place(body: Any, names: str) -> None:
    async with client() as http:
        answer = await http.post(PREDICT, json=body)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith(names)


async def test_predictions_beside_tensors_and_dropped_tokens() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        outputs = [Tensor("offset_mapping", "INT64", (1, 2, 2), np.array([[[0, 0], [0, 5]]]))]
        return InferResponse("m", "", [[[np.int64(2), 4]]], outputs, tokens=[2], tokens_dropped=3)

    async with client(StandIn(answer)) as http:
        got = await http.post(PREDICT, json={"instances": ["Paris"]})
    assert got.content == (
        b'{"predictions":[[[2,4]]],"outputs":[{"name":"offset_mapping","datatype":"INT64","shape":[1,2,2],'
        b'"data":[0,0,0,5]}],"parameters":{"tokens_dropped":3}}'
    )


async def test_floats_are_written_as_kserve_writes_them() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse("m", "", [np.array([-0.0344772, 1.0, np.nan], np.float32), np.float32(0.1)])

    async with client(StandIn(answer)) as http:
        got = await http.post(PREDICT, json={"instances": ["a", "b"]})
    assert got.content == b'{"predictions":[[-0.034477200359106064,1.0,null],0.10000000149011612]}'


async def test_the_models_carry_the_keys_of_both_apis() -> None:
    loading = StandIn(name="other", stage="load", progress=0.5, reason="load in progress")
    async with client(StandIn(), loading) as http:
        listed = (await http.get("/v1/models")).json()
        one = await http.get("/v1/models/m")
        other = await http.get("/v1/models/other")
        unknown = await http.get("/v1/models/nope")
    assert listed["models"] == ["m", "other"]
    assert listed["object"] == "list"
    assert listed["data"] == [one.json(), other.json()]
    assert (one.json()["name"], one.json()["ready"], one.json()["id"]) == ("m", True, "m")
    assert (one.json()["object"], one.json()["created"], one.json()["owned_by"]) == ("model", 1700000000, "modelserve")
    assert (other.status_code, other.json()["ready"]) == (503, False)
    assert (unknown.status_code, unknown.json()) == (404, {"error": "Model with name nope does not exist."})


async def test_a_model_that_loads_refuses_before_it_reads() -> None:
    async with client(StandIn(stage="load", reason="load in progress")) as http:
        answer = await http.post(PREDICT, content=b"no json")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")


async def test_explain_is_not_offered() -> None:
    async with client() as http:
        answer = await http.post("/v1/models/m:explain", json={"instances": ["a"]})
        unknown = await http.post("/v1/models/nope:explain", json={"instances": ["a"]})
    assert (answer.status_code, unknown.status_code) == (501, 404)
