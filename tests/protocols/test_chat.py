"""Chat over the whole ASGI app, and what a body becomes; the model is a stand-in that writes by script."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from modelserve.errors import InvalidRequest
from modelserve.generation import Finish, Grammar, Piece, Sampling
from tests.protocols.author import Author, token, words
from tests.protocols.rest import StandIn, client
from tests.protocols.test_completions import events

PATH = "/openai/v1/chat/completions"
HELLO = [{"role": "user", "content": "Say hello"}]
WEATHER: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Of a city.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}


async def ask(author: StandIn, messages: Any = HELLO, path: str = PATH, **body: Any) -> httpx.Response:
    async with client(author) as http:
        return await http.post(path, json={"model": "m", "messages": messages, **body})


async def refused(author: StandIn, messages: Any = HELLO, code: int = 400, **body: Any) -> dict[str, Any]:
    answer = await ask(author, messages, **body)
    assert answer.status_code == code, answer.text
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error


@pytest.mark.parametrize("path", [PATH, "/v1/chat/completions"])
async def test_a_chat_has_openais_shape(path: str) -> None:
    author = Author()
    answer = await ask(author, path=path)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.pop("created") > 1_700_000_000
    assert body.pop("id") == f"chatcmpl-{answer.headers['x-request-id']}"
    assert body == {
        "object": "chat.completion",
        "model": "m",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Hello world", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
                "stop_reason": None,
            }
        ],
        "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5, "prompt_tokens_details": None},
        "system_fingerprint": None,
    }
    (asked,) = author.asked
    assert (asked.prompts, asked.special_tokens, asked.skip_special_tokens) == ([[0, 1]], False, True)
    assert asked.sampling == Sampling()
    assert author.chats == [
        {
            "messages": HELLO,
            "tools": None,
            "template": None,
            "template_kwargs": {},
            "add_generation_prompt": True,
            "continue_final_message": False,
            "documents": None,
        }
    ]


async def test_messages_reach_the_template_as_it_reads_them() -> None:
    author = Author()
    await ask(
        author,
        [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "name": "Ann", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {
                "role": "assistant",
                "content": None,
                "refusal": None,
                "annotations": [],
                "tool_calls": [
                    {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bonn"}'}},
                    {"id": "c2", "type": "function", "function": {"name": "now", "arguments": ""}},
                ],
            },
            {"role": "tool", "tool_call_id": "c1", "content": "Rain"},
            {"role": "assistant", "content": "It rains.", "reasoning_content": "Hm."},
        ],
    )
    (chat,) = author.chats
    assert chat["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "a\nb", "name": "Ann"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"type": "function", "id": "c1", "function": {"name": "weather", "arguments": {"city": "Bonn"}}},
                {"type": "function", "id": "c2", "function": {"name": "now", "arguments": {}}},
            ],
        },
        {"role": "tool", "content": "Rain", "tool_call_id": "c1"},
        {"role": "assistant", "content": "It rains.", "reasoning_content": "Hm."},
    ]


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        ([], "messages"),
        ([{"role": "frob", "content": "x"}], "messages[0].role"),
        ([{"role": "user"}], "messages[0].content"),
        ([{"role": "user", "content": None}], "messages[0].content"),
        ([{"role": "assistant"}], "messages[0].content"),
        ([{"content": "x"}], "messages[0].role"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}], "messages[0].content"),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        (
            [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}],
            "messages[0].tool_calls[0].function.arguments",
        ),
        ("hello", "messages"),
        (None, "messages"),
    ],
)
async def test_other_messages_are_refused(messages: Any, param: str) -> None:
    author = Author()
    assert (await refused(author, messages))["param"] == param
    assert not author.chats


async def test_every_field_reaches_the_sampling_and_the_template() -> None:
    author = Author()
    answer = await ask(
        author,
        max_completion_tokens=9,
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        seed=1,
        stop="END",
        logprobs=True,
        top_logprobs=2,
        logit_bias={"3": 1},
        presence_penalty=1,
        frequency_penalty=1,
        n=2,
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "a", "strict": True, "schema": {"type": "null"}},
        },
        chat_template="{{ messages }}",
        chat_template_kwargs={"enable_thinking": False},
        reasoning_effort="low",
        documents=[{"title": "t", "text": "x"}],
        parallel_tool_calls=True,
        tool_choice="none",
        modalities=["text"],
        store=True,
        metadata={"a": "b"},
        user="u",
        service_tier="auto",
    )
    assert answer.status_code == 200, answer.text
    (asked,) = author.asked
    assert asked.n == 2
    assert asked.sampling == Sampling(
        max_tokens=9,
        temperature=0.5,
        top_p=0.9,
        top_k=5,
        seed=1,
        stop=("END",),
        logprobs=2,
        logit_bias={3: 1},
        presence_penalty=1,
        frequency_penalty=1,
        grammar=Grammar("json_schema", '{"type":"null"}'),
    )
    (chat,) = author.chats
    assert chat["template"] == "{{ messages }}"
    assert chat["template_kwargs"] == {"reasoning_effort": "low", "enable_thinking": False}
    assert chat["documents"] == [{"title": "t", "text": "x"}]
    assert [choice["index"] for choice in answer.json()["choices"]] == [0, 1]


@pytest.mark.parametrize(
    ("fields", "begins", "continues"),
    [
        ({}, True, False),
        ({"add_generation_prompt": False}, False, False),
        ({"continue_final_message": True}, False, True),
        ({"continue_final_message": True, "add_generation_prompt": False}, False, True),
    ],
)
async def test_a_message_is_begun_or_continued(fields: dict[str, Any], begins: bool, continues: bool) -> None:
    author = Author()
    await ask(author, [*HELLO, {"role": "assistant", "content": "He"}], **fields)
    (chat,) = author.chats
    assert (chat["add_generation_prompt"], chat["continue_final_message"]) == (begins, continues)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 1, "max_completion_tokens": 2}, "max_tokens"),
        ({"temperature": 3}, "temperature"),
        ({"n": 0}, "n"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"logprobs": 2}, "logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"continue_final_message": True, "add_generation_prompt": True}, "continue_final_message"),
        ({"echo": True}, "echo"),
        ({"modalities": ["audio"]}, "modalities"),
        ({"audio": {"voice": "alloy", "format": "wav"}}, "audio"),
        ({"functions": []}, "functions"),
        ({"frob": 1}, "frob"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "function": {"name": "nope"}}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": "maybe"}, "tool_choice"),
        ({"tools": [WEATHER, WEATHER]}, "tools"),
    ],
)
async def test_values_that_do_not_fit_are_refused_by_their_name(fields: dict[str, Any], param: str) -> None:
    author = Author()
    assert (await refused(author, **fields))["param"] == param
    assert not author.asked


async def test_logprobs_have_bytes() -> None:
    pieces = [
        Piece(0, "é", (token("é", -0.25, [("é", -0.25), ("x", float("-inf"))]),), completion_tokens=1),
        Piece(0, "", finish="length", completion_tokens=1),
    ]
    answer = await ask(Author(script=lambda request: pieces), logprobs=True, top_logprobs=2)
    (choice,) = answer.json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["logprobs"] == {
        "content": [
            {
                "token": "é",
                "logprob": -0.25,
                "bytes": [195, 169],
                "top_logprobs": [
                    {"token": "é", "logprob": -0.25, "bytes": [195, 169]},
                    {"token": "x", "logprob": -9999.0, "bytes": [120]},
                ],
            }
        ],
        "refusal": None,
    }


async def test_a_stream_says_the_role_first_and_the_finish_reason_last() -> None:
    author = Author()
    answer = await ask(author, stream=True)
    chunks = events(answer)
    assert {chunk["id"] for chunk in chunks} == {f"chatcmpl-{answer.headers['x-request-id']}"}
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert not any("usage" in chunk for chunk in chunks)
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["delta"] for choice in choices] == [
        {"role": "assistant", "content": ""},
        {"content": "Hello"},
        {"content": " world"},
        {},
    ]
    assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]
    await asyncio.wait_for(author.writings[0].closed.wait(), 10)


async def test_each_choice_of_a_stream_has_its_role_and_its_end() -> None:
    pieces = [piece for pair in zip(words("a", "b"), words("c", "d", index=1), strict=True) for piece in pair]
    author = Author(script=lambda request: pieces)
    options = {"include_usage": True}
    chunks = events(await ask(author, n=2, stream=True, stream_options=options, logprobs=True))
    last = chunks.pop()
    assert (last["choices"], last["usage"]["completion_tokens"]) == ([], 6)
    for index, text in ((0, "ab"), (1, "cd")):
        choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
        assert [choice["delta"].get("role") for choice in choices] == ["assistant", None, None, None]
        assert "".join(choice["delta"].get("content", "") for choice in choices) == text
        assert [choice["finish_reason"] for choice in choices] == [None, None, None, "stop"]


async def test_a_streams_logprobs_come_with_their_text() -> None:
    author = Author(script=lambda request: words("a", "b", tokens=True))
    choices = [choice for chunk in events(await ask(author, stream=True, logprobs=True)) for choice in chunk["choices"]]
    for choice in choices:
        text = choice["delta"].get("content")
        assert choice["logprobs"] is None if not text else choice["logprobs"]["content"][0]["token"] == text


@pytest.mark.parametrize("stream", [True, False])
async def test_what_the_template_refuses_is_a_400(stream: bool) -> None:
    author = Author(refuses=InvalidRequest("The model has no chat template.", param="messages"))
    error = await refused(author, stream=stream)
    assert (error["message"], error["param"]) == ("The model has no chat template.", "messages")


CALLS = ["It", " <wea", 'ther {"city":', '"Bonn"}', "><now {}> ", "<"]


def calling(*texts: str, finish: Finish = "stop") -> Author:
    return Author(script=lambda request: words(*texts, finish=finish))


async def test_calls_are_told_apart_from_content() -> None:
    author = calling(*CALLS)
    (choice,) = (await ask(author, tools=[WEATHER])).json()["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": "It  <",
        "refusal": None,
        "tool_calls": [
            {"id": "call-0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Bonn"}'}},
            {"id": "call-1", "type": "function", "function": {"name": "now", "arguments": "{}"}},
        ],
    }
    assert author.chats[0]["tools"] == [WEATHER]
    assert set(author.choices) == {"auto"}
    assert author.asked[0].skip_special_tokens is False
    assert author.asked[0].sampling.grammar is None


async def test_a_call_alone_has_no_content() -> None:
    (choice,) = (await ask(calling("<now {}>"), tools=[WEATHER])).json()["choices"]
    assert choice["message"]["content"] is None


async def test_no_call_is_a_text() -> None:
    (choice,) = (await ask(calling("Hello"), tools=[WEATHER])).json()["choices"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("stop", "Hello")
    assert "tool_calls" not in choice["message"]


async def test_a_text_that_was_cut_off_is_that() -> None:
    (choice,) = (await ask(calling("<now {", finish="length"), tools=[WEATHER])).json()["choices"]
    assert choice["finish_reason"] == "length"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == "{"


async def test_calls_are_streamed() -> None:
    chunks = events(await ask(calling(*CALLS), tools=[WEATHER], stream=True))
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    assert [choice["finish_reason"] for choice in choices] == [None] * (len(choices) - 1) + ["tool_calls"]
    deltas = [choice["delta"] for choice in choices]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(delta.get("content", "") for delta in deltas) == "It  <"
    calls = [call for delta in deltas for call in delta.get("tool_calls", [])]
    begun = [call for call in calls if "id" in call]
    assert [(call["index"], call["id"], call["type"], call["function"]["name"]) for call in begun] == [
        (0, "call-0", "function", "weather"),
        (1, "call-1", "function", "now"),
    ]
    for index, arguments in ((0, '{"city":"Bonn"}'), (1, "{}")):
        assert "".join(call["function"]["arguments"] for call in calls if call["index"] == index) == arguments
    assert all(set(call) == {"index", "function"} for call in calls if call not in begun)


@pytest.mark.parametrize("stream", [True, False])
async def test_one_call_at_most(stream: bool) -> None:
    author = calling(*CALLS)
    answer = await ask(author, tools=[WEATHER], parallel_tool_calls=False, stream=stream)
    assert "weather" in answer.text
    assert "now" not in answer.text
    assert set(author.one_calls) == {True}


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_a_call_that_must_be_made_is_a_grammar(choice: Any) -> None:
    author = calling("<weather {}>")
    answer = await ask(author, tools=[WEATHER], tool_choice=choice)
    assert answer.json()["choices"][0]["finish_reason"] == "tool_calls"
    assert author.choices == [choice, choice]
    assert author.asked[0].sampling.grammar == Grammar("json_object")


async def test_a_model_is_not_told_of_tools_that_it_shall_not_call() -> None:
    author = calling("<now {}>")
    (choice,) = (await ask(author, tools=[WEATHER], tool_choice="none")).json()["choices"]
    assert choice["message"]["content"] == "<now {}>"
    assert author.chats[0]["tools"] is None
    assert not author.choices


async def test_tools_are_refused_where_calls_cannot_be_read_or_have_a_structure() -> None:
    author = Author(calls=False)
    assert (await refused(author, tools=[WEATHER]))["param"] == "tools"
    assert (await refused(author, tools=[WEATHER], stream=True))["param"] == "tools"
    structured = {"response_format": {"type": "json_object"}}
    assert (await refused(Author(), tools=[WEATHER], **structured))["param"] == "response_format"
    assert (await ask(Author(), tools=[WEATHER], tool_choice="none", **structured)).status_code == 200
    assert not author.asked


async def test_the_log_has_the_last_message(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="modelserve.request")
    async with client(Author(), disable_log_requests=False) as http:
        await http.post(PATH, json={"model": "m", "messages": [{"role": "system", "content": "x"}, *HELLO]})
    (line,) = [record.getMessage() for record in caplog.records if record.name == "modelserve.request"]
    assert "texts=1 tokens=6" in line
    assert "request_texts=['Say hello']" in line


async def test_other_models_are_refused() -> None:
    assert (await refused(StandIn()))["message"] == "Model m does not support Chat Completion API"
    assert (await refused(Author(), code=404, model="nope"))["code"] == "model_not_found"
