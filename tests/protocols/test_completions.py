"""Completions over the whole ASGI app, and what a body becomes; the model is a stand-in that writes by script."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from modelserve.errors import InferenceFailed, InvalidRequest, NotReady, Overloaded
from modelserve.generation import Grammar, Piece, Sampling
from tests.protocols.author import Author, token, words
from tests.protocols.rest import StandIn, client, listening, request_bytes

PATH = "/openai/v1/completions"


async def complete(author: Author, path: str = PATH, **body: Any) -> httpx.Response:
    async with client(author) as http:
        return await http.post(path, json={"model": "m", **body})


async def refused(author: StandIn, code: int = 400, **body: Any) -> dict[str, Any]:
    async with client(author) as http:
        answer = await http.post(PATH, json={"model": "m", **body})
    assert answer.status_code == code, answer.text
    assert set(answer.json()) == {"error"}
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


def events(answer: httpx.Response) -> list[Any]:
    """The values of a stream that ends as OpenAI's do."""
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
    *blocks, done, rest = answer.text.split("\n\n")
    assert (done, rest) == ("data: [DONE]", "")
    return [json.loads(block.removeprefix("data: ")) for block in blocks]


@pytest.mark.parametrize("path", [PATH, "/v1/completions"])
async def test_a_completion_has_openais_shape(path: str) -> None:
    author = Author()
    answer = await complete(author, path, prompt="The capital of France")
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("created") > 1_700_000_000
    assert body.pop("id") == f"cmpl-{answer.headers['x-request-id']}"
    assert body == {
        "object": "text_completion",
        "model": "m",
        "choices": [
            {"index": 0, "text": "Hello world", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7, "prompt_tokens_details": None},
        "system_fingerprint": None,
    }
    (asked,) = author.asked
    assert (asked.prompts, asked.n, asked.echo, asked.api) == (["The capital of France"], 1, False, "openai")
    assert asked.special_tokens is asked.skip_special_tokens is True
    assert (asked.sampling, asked.usual_tokens) == (Sampling(), 16)


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("a", ["a"]),
        ("", [""]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1, 2], [3]], [[1, 2], [3]]),
    ],
)
async def test_a_prompt_is_a_text_texts_or_token_ids(prompt: Any, prompts: Any) -> None:
    author = Author()
    answer = await complete(author, prompt=prompt, n=2)
    assert author.asked[0].prompts == prompts
    assert [choice["index"] for choice in answer.json()["choices"]] == list(range(2 * len(prompts)))


@pytest.mark.parametrize("prompt", [[], [[]], ["a", 1], [1, [2]], [1.5], {"a": 1}, None])
async def test_another_prompt_is_refused(prompt: Any) -> None:
    assert (await refused(Author(), prompt=prompt))["param"] == "prompt"


async def test_a_prompt_must_be_there() -> None:
    assert (await refused(Author()))["message"] == "prompt is missing; it is a text, a list of texts, " + (
        "a list of token ids or a list of such lists."
    )


async def test_every_field_reaches_the_sampling() -> None:
    author = Author()
    answer = await complete(
        author,
        prompt="a",
        max_tokens=5,
        min_tokens=2,
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        seed=-3,
        stop=["x", "yz"],
        stop_token_ids=[4],
        ignore_eos=True,
        logprobs=3,
        logit_bias={"17": -100, "18": 2.5},
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.2,
        response_format={"type": "json_object"},
        skip_special_tokens=False,
        add_special_tokens=False,
        n=3,
        best_of=3,
        user="u",
        metadata={"a": "b"},
        store=False,
        suffix=None,
    )
    assert answer.status_code == 200, answer.text
    (asked,) = author.asked
    assert (asked.n, asked.special_tokens, asked.skip_special_tokens) == (3, False, False)
    assert asked.sampling == Sampling(
        max_tokens=5,
        min_tokens=2,
        temperature=0,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        seed=2**63 - 3,
        stop=("x", "yz"),
        stop_token_ids=(4,),
        ignore_eos=True,
        logprobs=3,
        logit_bias={17: -100, 18: 2.5},
        presence_penalty=-2,
        frequency_penalty=2,
        repetition_penalty=1.2,
        grammar=Grammar("json_object"),
    )


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", "hot"),
        ("top_p", 1.1),
        ("top_p", -1),
        ("top_k", -2),
        ("min_p", 2),
        ("n", 0),
        ("n", 129),
        ("best_of", 2),
        ("max_tokens", -1),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("seed", 2**63),
        ("stop", ""),
        ("stop", ["a", ""]),
        ("stop", ["a"] * 17),
        ("stop", 5),
        ("stop_token_ids", [-1]),
        ("logprobs", 21),
        ("logprobs", True),
        ("presence_penalty", 2.5),
        ("frequency_penalty", -2.5),
        ("repetition_penalty", 0),
        ("logit_bias", {"a": 1}),
        ("logit_bias", {"1": 101}),
        ("logit_bias", [1]),
        ("suffix", "x"),
        ("stream_options", {"include_usage": True}),
        ("response_format", {"type": "xml"}),
        ("structured_outputs", {"frob": 1}),
        ("frob", 1),
        ("use_beam_search", True),
    ],
)
async def test_a_value_out_of_its_range_is_refused_by_its_name(field: str, value: Any) -> None:
    author = Author()
    error = await refused(author, prompt="a", **{field: value})
    assert (error["param"], error["type"]) == (field, "invalid_request_error")
    assert field in error["message"]
    assert not author.asked


async def test_an_unknown_field_is_told_as_openai_does() -> None:
    error = await refused(Author(), prompt="a", frob=1)
    assert error["message"].startswith("Unrecognized request argument supplied: frob;")


@pytest.mark.parametrize(
    ("fields", "grammar"),
    [
        ({"response_format": {"type": "text"}}, None),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}}, Grammar("json_object")),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "integer"}}}},
            Grammar("json_schema", '{"type":"integer"}'),
        ),
        ({"structured_outputs": {"json": {"type": "null"}}}, Grammar("json_schema", '{"type":"null"}')),
        ({"structured_outputs": {"json": '{"type": "null"}'}}, Grammar("json_schema", '{"type": "null"}')),
        ({"structured_outputs": {"regex": "a+"}}, Grammar("regex", "a+")),
        ({"structured_outputs": {"choice": ["a|b", "c"]}}, Grammar("regex", r"(?:a\|b)|(?:c)")),
        ({"structured_outputs": {"grammar": 'start: "a"'}}, Grammar("lark", 'start: "a"')),
        ({"structured_outputs": {"json_object": True}}, Grammar("json_object")),
        ({"guided_json": {"type": "null"}}, Grammar("json_schema", '{"type":"null"}')),
        ({"guided_regex": "a"}, Grammar("regex", "a")),
        ({"guided_choice": ["a.b"]}, Grammar("regex", r"(?:a\.b)")),
        ({"guided_grammar": "start: /a/"}, Grammar("lark", "start: /a/")),
    ],
)
async def test_a_structure_is_a_grammar(fields: dict[str, Any], grammar: Grammar | None) -> None:
    author = Author()
    assert (await complete(author, prompt="a", **fields)).status_code == 200
    assert author.asked[0].sampling.grammar == grammar


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"response_format": {"type": "json_object"}, "guided_regex": "a"}, "guided_regex"),
        ({"structured_outputs": {"regex": "a", "choice": ["a"]}}, "structured_outputs.choice"),
        ({"structured_outputs": {"choice": []}}, "structured_outputs"),
        ({"structured_outputs": {"json": "{"}}, "structured_outputs"),
        ({"response_format": {"type": "json_schema"}}, "response_format"),
    ],
)
async def test_two_structures_and_broken_ones_are_refused(fields: dict[str, Any], param: str) -> None:
    assert (await refused(Author(), prompt="a", **fields))["param"] == param


async def test_logprobs_are_lists_of_equal_length() -> None:
    pieces = [
        Piece(0, "The", (token("The", float("nan")),)),
        Piece(0, " cat", (token(" cat", -1.5, [(" dog", -0.25), (" cat", -1.5)], offset=3),), completion_tokens=1),
        Piece(0, "", (token("bytes:\\xe2", float("-inf"), [("x", float("-inf"))], offset=7),), completion_tokens=2),
        Piece(0, "!", (token("!", -2.0, [("?", -0.5)], offset=7),), "length", completion_tokens=3),
    ]
    author = Author(script=lambda request: pieces)
    answer = await complete(author, prompt="The", logprobs=2, echo=True)
    (choice,) = answer.json()["choices"]
    assert choice["text"] == "The cat!"
    assert choice["logprobs"] == {
        "tokens": ["The", " cat", "bytes:\\xe2", "!"],
        "token_logprobs": [None, -1.5, -9999.0, -2.0],
        "top_logprobs": [
            None,
            {" cat": -1.5, " dog": -0.25},
            {"x": -9999.0, "bytes:\\xe2": -9999.0},
            {"?": -0.5, "!": -2.0},
        ],
        "text_offset": [0, 3, 7, 7],
    }
    assert list(choice["logprobs"]["top_logprobs"][1]) == [" dog", " cat"]
    assert author.asked[0].echo
    assert author.asked[0].sampling.prompt_logprobs


@pytest.mark.parametrize(
    ("fields", "logprobs", "scores"),
    [
        ({"echo": True, "max_tokens": 0, "logprobs": 0}, 0, True),
        ({"echo": True, "max_tokens": 0}, 0, True),
        ({"echo": True}, None, False),
        ({"logprobs": 0}, 0, False),
    ],
)
async def test_echo_with_logprobs_scores_the_prompt(fields: dict[str, Any], logprobs: int | None, scores: bool) -> None:
    author = Author()
    answer = await complete(author, prompt="a", **fields)
    assert answer.status_code == 200, answer.text
    sampling = author.asked[0].sampling
    assert (sampling.logprobs, sampling.prompt_logprobs) == (logprobs, scores)
    assert (answer.json()["choices"][0]["logprobs"] is None) is ("logprobs" not in fields)


async def test_a_stop_is_told() -> None:
    author = Author(script=lambda request: [Piece(0, "a", (), "stop", "END", 2)])
    (choice,) = (await complete(author, prompt="a", stop="END")).json()["choices"]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", "END")
    assert author.asked[0].sampling.stop == ("END",)


async def test_a_stream_has_the_finish_reason_only_at_the_end() -> None:
    author = Author()
    answer = await complete(author, prompt="one two", stream=True)
    chunks = events(answer)
    assert {chunk["id"] for chunk in chunks} == {f"cmpl-{answer.headers['x-request-id']}"}
    assert {chunk["object"] for chunk in chunks} == {"text_completion"}
    assert not any("usage" in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert "".join(choice["text"] for choice in choices) == "Hello world"
    assert [choice["finish_reason"] for choice in choices] == [None, None, "stop"]
    await asyncio.wait_for(author.writings[0].closed.wait(), 10)


async def test_a_streams_usage_comes_last_and_alone() -> None:
    chunks = events(await complete(Author(), prompt=["a b", "c"], stream=True, stream_options={"include_usage": True}))
    assert [chunk["usage"] for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    assert chunks[-1]["choices"] == []
    assert chunks[-1]["usage"] == {
        "prompt_tokens": 3,
        "completion_tokens": 6,
        "total_tokens": 9,
        "prompt_tokens_details": None,
    }


async def test_a_streams_usage_may_come_with_every_event() -> None:
    options = {"continuous_usage_stats": True}
    chunks = events(await complete(Author(), prompt="a", stream=True, stream_options=options))
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3]


async def test_a_streams_choices_are_told_apart_and_have_logprobs() -> None:
    pieces = [piece for index in (1, 0) for piece in words("a", "b", index=index, tokens=True)]
    author = Author(script=lambda request: pieces)
    chunks = events(await complete(author, prompt="a", n=2, stream=True, logprobs=0))
    texts: dict[int, str] = {0: "", 1: ""}
    for chunk in chunks:
        (choice,) = chunk["choices"]
        texts[choice["index"]] += choice["text"]
        assert choice["logprobs"]["tokens"] == ([choice["text"]] if choice["text"] else [])
    assert texts == {0: "ab", 1: "ab"}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("The prompt has 900 tokens; the context has 128.", param="prompt"), 400),
        (Overloaded("Full.", retry_after_s=5), 429),
        (NotReady("Draining."), 503),
    ],
)
async def test_what_the_model_refuses_is_an_ordinary_answer(error: Any, code: int, stream: bool) -> None:
    told = await refused(Author(refuses=error), code, prompt="a", stream=stream)
    assert told["message"] == error.message


async def test_an_error_in_the_middle() -> None:
    author = Author(script=lambda request: [*words("a")[:1], InferenceFailed("A step failed.")])
    assert (await refused(author, 500, prompt="a"))["message"] == "A step failed."
    answer = await complete(author, prompt="a", stream=True)
    assert answer.status_code == 200
    assert "[DONE]" not in answer.text
    last = json.loads(answer.text.split("\n\n")[-2].removeprefix("data: "))
    assert last["error"]["message"] == "A step failed."
    assert all(writing.closed.is_set() for writing in author.writings)


@pytest.mark.parametrize("stream", [True, False])
async def test_a_caller_who_leaves_cancels_the_generation(stream: bool) -> None:
    author = Author(free=1)
    async with listening(author) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(PATH, {"model": "m", "prompt": "a", "stream": stream}))
        async with asyncio.timeout(10):
            while not author.writings:  # noqa: ASYNC110  the stand-in tells nobody
                await asyncio.sleep(0.01)
        writer.close()
        await asyncio.wait_for(author.writings[0].closed.wait(), 10)


@pytest.mark.parametrize("stream", [True, False])
async def test_it_is_recorded_with_its_tokens_and_times(stream: bool, caplog: pytest.LogCaptureFixture) -> None:
    labels = {"api": "openai", "task": "text_generation", "code": "200"}
    before = REGISTRY.get_sample_value("modelserve_requests_total", labels) or 0
    caplog.set_level("INFO", logger="modelserve.request")
    await complete(Author(), prompt="one two", stream=stream)
    assert REGISTRY.get_sample_value("modelserve_requests_total", labels) == before + 1
    (line,) = [record.getMessage() for record in caplog.records if record.name == "modelserve.request"]
    for part in ("texts=1", "tokens=5", "queue_ms=250.0", "inference_ms=500.0", "code=200"):
        assert part in line


async def test_other_models_are_refused() -> None:
    assert (await refused(StandIn(), prompt="a"))["message"] == "Model m does not support Completions API"
    error = await refused(Author(), 404, prompt="a", model="nope")
    assert error["code"] == "model_not_found"
    loading = Author(stage="load", reason="load in progress")
    assert "not ready" in (await refused(loading, 503, prompt="a"))["message"]


async def test_embeddings_and_rerank_of_a_model_that_writes_are_refused() -> None:
    async with client(Author()) as http:
        embedding = await http.post("/v1/embeddings", json={"model": "m", "input": "a"})
        reranking = await http.post("/v1/rerank", json={"model": "m", "query": "a", "documents": ["b"]})
    assert embedding.status_code == reranking.status_code == 400
    assert embedding.json()["error"]["message"] == (
        "Model m does not support Embeddings API; its task is text_generation."
    )
    assert "its task is text_generation" in reranking.json()["error"]["message"]


async def test_at_least_as_many_as_at_most_is_no_wish() -> None:
    answer = await complete(Author(), PATH, prompt="x", min_tokens=17, max_tokens=16)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "min_tokens"
