"""openai's client and langchain-openai, in their own environment, against a real server of a tiny model that writes."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.clients.test_clients import ask
from tests.generative import tiny_generative
from tests.process import Server, serve

PROMPT = "The capital of France"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    model = tiny_generative("llama")
    with serve("--model_dir", model, "--model_name=m", "--task=text_generation", "--threads=1") as server:
        yield server


@pytest.fixture(scope="module", params=["/openai/v1", "/v1"])
def answers(server: Server, request: pytest.FixtureRequest) -> Any:
    return ask("openai", "ask_openai_generation.py", server.url + request.param, "m", PROMPT)


@pytest.mark.parametrize("api", ["completion", "chat"])
def test_a_stream_joins_to_the_whole(answers: Any, api: str) -> None:
    whole, stream = answers[api], answers[f"{api}_stream"]
    assert whole["text"]
    assert stream["text"] == whole["text"]
    assert stream["usage"] == whole["usage"]
    assert stream["last_choices"] == 0
    assert stream["finishes"] == [None] * (len(stream["finishes"]) - 1) + [whole["finish"]]
    assert stream["ids"] == 1
    if api == "chat":
        assert stream["roles"] == ["assistant"] + [None] * (len(stream["roles"]) - 1)


def test_usage_is_what_the_tokenizer_counts(answers: Any) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_generative("llama"))
    prompt, completion, total = answers["completion"]["usage"]
    assert prompt == len(tokenizer(PROMPT)["input_ids"])
    assert total == prompt + completion
    messages = [{"role": "user", "content": PROMPT}]
    templated = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert answers["chat"]["usage"][0] == len(tokenizer(templated, add_special_tokens=False)["input_ids"])


def test_every_choice_of_greedy_texts_is_the_same(answers: Any) -> None:
    texts = answers["completions"]["texts"]
    assert len(texts) == 4
    assert len(set(texts)) == 1
    assert answers["completion"]["text"].startswith(texts[0])


def test_a_prompt_is_scored(answers: Any) -> None:
    text, tokens, logprobs, offsets = answers["scored"]
    assert text == PROMPT
    assert len(tokens) == len(logprobs) == len(offsets) == answers["completion"]["usage"][0]
    assert logprobs[0] is None
    assert all(logprob < 0 for logprob in logprobs[1:])


def test_chat_tells_logprobs_and_bytes(answers: Any) -> None:
    assert 1 <= len(answers["likely"]) <= 3
    for text, logprob, raw, top in answers["likely"]:
        assert logprob <= 0
        assert bytes(raw).decode(errors="replace") == text or text.startswith("bytes:")
        assert top == 2


def test_the_same_seed_writes_the_same(answers: Any) -> None:
    first, second = answers["seeded"]
    assert first == second


def test_a_schema_is_kept_to(answers: Any) -> None:
    assert type(json.loads(answers["json"])["yes"]) is bool


@pytest.mark.parametrize("how", ["required", "named", "required_stream"])
def test_a_tool_that_must_be_called_is_called(answers: Any, how: str) -> None:
    finish, calls = answers[how]
    assert finish == "tool_calls"
    for kind, name, arguments in calls:
        assert (kind, name) == ("function", "answer")
        assert type(arguments["yes"]) is bool
    assert calls


def test_the_async_client_is_answered_alike(answers: Any) -> None:
    chats = answers["async"]["together"]
    assert [chat["text"] for chat in chats] == [answers["chat"]["text"]] * 4
    assert answers["async"]["stream"]["text"] == answers["chat"]["text"]


def test_errors_are_its_own_classes(answers: Any) -> None:
    too_long = answers["too_long"]
    assert (too_long["class"], too_long["param"]) == ("BadRequestError", "max_tokens")
    assert "100000" in too_long["message"]
    assert "256" in too_long["message"]
    assert (answers["suffix"]["class"], answers["suffix"]["param"]) == ("BadRequestError", "suffix")
    assert (answers["temperature"]["class"], answers["temperature"]["param"]) == ("BadRequestError", "temperature")
    assert (answers["unknown"]["class"], answers["unknown"]["code"]) == ("NotFoundError", "model_not_found")
    assert "does not support Embeddings API" in answers["embeddings"]["message"]


def test_langchain_is_answered_alike(server: Server, answers: Any) -> None:
    told = ask("openai", "ask_langchain.py", f"{server.url}/openai/v1", "m", PROMPT)
    assert told["invoke"] == "".join(told["pieces"]) == answers["chat"]["text"]
    assert len(told["pieces"]) > 2
    assert told["completion"] == answers["completion"]["text"]
    assert told["finish"] == answers["chat"]["finish"]
    prompt, completion, total = answers["chat"]["usage"]
    (streamed,) = told["stream_usage"]
    for counts in (told["usage"], streamed):
        assert (counts["input_tokens"], counts["output_tokens"], counts["total_tokens"]) == (prompt, completion, total)


def test_nothing_is_left_running(server: Server, answers: Any) -> None:
    """One of the client's streams was broken off."""
    quiet = {f'modelserve_generation_{state}{{model_name="m"}} 0.0' for state in ("running", "waiting")}
    deadline = time.monotonic() + 10
    while not quiet <= set(server.get("/metrics").text.splitlines()):
        assert time.monotonic() < deadline
        time.sleep(0.05)
