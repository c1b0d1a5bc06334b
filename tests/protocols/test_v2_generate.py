"""V2's generate extension over the whole ASGI app; the model is a stand-in that writes by script."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from modelserve.errors import InferenceFailed, InvalidRequest
from modelserve.generation import Piece
from modelserve.registry import PROTOCOLS
from tests.protocols.author import Author, words
from tests.protocols.rest import StandIn, client

PATH = "/v2/models/m/generate"


@pytest.fixture(autouse=True)
def served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(PROTOCOLS, "v2_generate", "modelserve.protocols.v2_generate:routes")


async def post(author: StandIn, body: Any, path: str = PATH) -> httpx.Response:
    async with client(author) as http:
        return await http.post(path, json=body)


async def streamed(author: StandIn, body: Any) -> list[Any]:
    answer = await post(author, body, "/v2/models/m/generate_stream")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *blocks, rest = answer.text.split("\n\n")
    assert rest == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("path", [PATH, "/v2/models/m/versions/1/generate"])
async def test_a_text_has_tritons_shape(path: str) -> None:
    author = Author()
    answer = await post(author, {"text_input": "The capital"}, path)
    assert answer.json() == {"model_name": "m", "model_version": "1", "text_output": "Hello world"}
    assert answer.headers["content-type"] == "application/json"
    (asked,) = author.asked
    assert (asked.prompts, asked.api, asked.echo) == (["The capital"], "v2", False)
    assert asked.sampling.temperature == 0


@pytest.mark.parametrize("beside", [True, False])
async def test_parameters_stand_in_their_object_or_beside_the_text(beside: bool) -> None:
    parameters = {"max_tokens": 5, "temperature": 0.5, "top_p": 0.9, "top_k": 3, "seed": 4, "stop": ["x"]}
    author = Author()
    body = {"text_input": "a", **(parameters if beside else {"parameters": parameters})}
    assert (await post(author, body)).status_code == 200
    sampling = author.asked[0].sampling
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p) == (5, 0.5, 0.9)
    assert (sampling.top_k, sampling.seed, sampling.stop) == (3, 4, ("x",))


async def test_the_input_may_be_repeated() -> None:
    author = Author()
    await post(author, {"text_input": "a", "parameters": {"exclude_input_in_output": False, "stream": False}})
    assert author.asked[0].echo


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "text_input"),
        ({"text_input": 5}, "text_input"),
        ({"text_input": ["a"]}, "text_input"),
        ({"text_input": "a", "parameters": 5}, "parameters"),
        ({"text_input": "a", "parameters": {"frob": 1}}, "frob"),
        ({"text_input": "a", "frob": 1}, "frob"),
        ({"text_input": "a", "parameters": {"temperature": -1}}, "temperature"),
        ({"text_input": "a", "parameters": {"max_tokens": "many"}}, "max_tokens"),
        ({"text_input": "a", "parameters": {"aggregation_strategy": "max"}}, "aggregation_strategy"),
        ({"text_input": "a", "parameters": {"stream": True}}, "stream"),
        ([], ""),
    ],
)
async def test_another_body_is_refused(body: Any, param: str) -> None:
    author = Author()
    answer = await post(author, body)
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert param in answer.json()["error"]
    assert not author.asked


async def test_a_stream_is_an_event_for_each_piece() -> None:
    events = await streamed(Author(), {"text_input": "a", "parameters": {"stream": True}})
    assert [event["text_output"] for event in events] == ["Hello", " world"]
    assert all(event["model_name"] == "m" and event["model_version"] == "1" for event in events)


async def test_a_stream_of_no_text_is_one_event() -> None:
    author = Author(script=lambda request: [Piece(0, "", finish="stop", completion_tokens=1)])
    assert [event["text_output"] for event in await streamed(author, {"text_input": "a"})] == [""]


async def test_errors_before_and_in_a_stream_have_v2s_shape() -> None:
    refused = await post(
        Author(refuses=InvalidRequest("Too long.")), {"text_input": "a"}, "/v2/models/m/generate_stream"
    )
    assert (refused.status_code, refused.json()) == (400, {"error": "Too long."})
    author = Author(script=lambda request: [*words("a")[:1], InferenceFailed("A step failed.")])
    assert (await streamed(author, {"text_input": "a"}))[-1] == {"error": "A step failed."}


async def test_other_models_and_versions_are_refused() -> None:
    assert "does not support the generate extension" in (await post(StandIn(), {"text_input": "a"})).json()["error"]
    assert (await post(Author(), {"text_input": "a"}, "/v2/models/nope/generate")).status_code == 404
    assert (await post(Author(), {"text_input": "a"}, "/v2/models/m/versions/2/generate")).status_code == 404


async def test_it_is_in_the_openapi_document() -> None:
    async with client(Author()) as http:
        paths = (await http.get("/openapi.json")).json()["paths"]
    whole = paths["/v2/models/{model}/generate"]["post"]["responses"]["200"]["content"]
    stream = paths["/v2/models/{model}/generate_stream"]["post"]["responses"]["200"]["content"]
    assert (list(whole), list(stream)) == (["application/json"], ["text/event-stream"])
