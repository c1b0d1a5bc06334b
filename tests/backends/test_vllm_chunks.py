"""What vLLM says, from recorded bytes of a real server (record_vllm.py); and that the stand-in says it the same way."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelserve.backends.vllm_chunks import Chunks, Refused, refusal
from modelserve.errors import InferenceFailed, InvalidRequest, NotReady
from modelserve.generation import Sampling, Sequence
from tests import fake_vllm
from tests.backends.ear import Ear

RECORDED: dict[str, Any] = json.loads(Path(__file__).with_name("vllm_recorded.json").read_text())
CASES: dict[str, Any] = RECORDED["cases"]
STREAMED = [
    name for name, case in CASES.items() if case["status"] == 200 and case["asked"]["stream"] and name != "bad lark"
]


def sequence(case: dict[str, Any], **values: Any) -> Sequence:
    asked = case["asked"]
    sampling = Sampling(logprobs=asked.get("logprobs"), prompt_logprobs="prompt_logprobs" in asked)
    ends = frozenset(asked["stop_token_ids"])
    return Sequence(asked["prompt"], sampling, asked["max_tokens"], ends, 0, Ear(), **values)


def events(case: dict[str, Any]) -> list[bytes]:
    told: list[bytes] = case["told"].encode().split(b"\n\n")
    assert told[-2:] == [b"data: [DONE]", b""]
    return [event.removeprefix(b"data: ") for event in told[:-2]]


def heard(case: dict[str, Any]) -> tuple[Ear, Chunks]:
    one = sequence(case)
    chunks = Chunks(one)
    said = events(case) if case["asked"]["stream"] else [case["told"].encode()]
    assert [chunks.hear(event) for event in said] == [False] * (len(said) - 1) + [True]
    assert isinstance(one.sink, Ear)
    return one.sink, chunks


@pytest.mark.parametrize("name", STREAMED)
def test_every_token_and_the_end(name: str) -> None:
    ear, chunks = heard(CASES[name])
    wanted = [id for event in events(CASES[name]) for id in json.loads(event)["choices"][0]["token_ids"]]
    assert [token.id for token in ear.tokens] == wanted
    assert chunks.count == len(wanted) > 0
    ended = wanted[-1] in CASES[name]["asked"]["stop_token_ids"]
    assert chunks.finish == ("stop" if ended or name in ("schema", "lark") else "length")


def test_a_text_that_an_end_token_ends_has_it() -> None:
    ear, chunks = heard(CASES["ended"])
    ends = set(CASES["ended"]["asked"]["stop_token_ids"])
    assert [token.id in ends for token in ear.tokens] == [False] * (len(ear.tokens) - 1) + [True]
    assert chunks.finish == "stop"


def test_logprobs() -> None:
    ear, _ = heard(CASES["logprobs"])
    for token in ear.tokens:
        assert len(token.top) == 2
        assert token.top[0] == (token.id, token.logprob)  # it was greedy
        assert token.top[0][1] >= token.top[1][1]
    bare, _ = heard(CASES["no top logprobs"])
    assert [(token.id, token.logprob, token.top) for token in bare.tokens] == [
        (token.id, pytest.approx(token.logprob, abs=1e-5), ()) for token in ear.tokens
    ]
    plain, _ = heard(CASES["greedy"])
    assert [(token.id, token.logprob, token.top) for token in plain.tokens] == [(t.id, 0.0, ()) for t in ear.tokens]


def test_the_prompt_is_scored_before_anything_is_put() -> None:
    ear, chunks = heard(CASES["scored"])
    assert [score.id for score in ear.scores] == CASES["scored"]["asked"]["prompt"]
    assert math.isnan(ear.scores[0].logprob)
    assert all(score.logprob < 0 and len(score.top) == 2 for score in ear.scores[1:])
    assert chunks.count == 4


def test_nothing_is_put_where_only_the_prompt_is_scored() -> None:
    case = CASES["only scored"]
    one = sequence(case)
    one.max_tokens = 0
    chunks = Chunks(one)
    assert chunks.hear(case["told"].encode())
    assert isinstance(one.sink, Ear)
    assert (one.sink.tokens, chunks.count, chunks.finish) == ([], 0, "length")
    assert len(one.sink.scores) == len(case["asked"]["prompt"])


def test_a_grammar_was_kept_to() -> None:
    told = {name: [json.loads(event)["choices"][0] for event in events(CASES[name])] for name in ("schema", "lark")}
    texts = {name: "".join(choice["text"] for choice in choices) for name, choices in told.items()}
    assert type(json.loads(texts["schema"])["yes"]) is bool
    assert texts["lark"] in ("ab", "ac")


def test_what_it_refuses_is_the_callers_mistake() -> None:
    """Before the answer begins, or as its only event."""
    case = CASES["too long"]
    error = refusal(case["status"], case["told"].encode())
    assert isinstance(error, InvalidRequest)
    assert error.message == " ".join(json.loads(case["told"])["error"]["message"].split())
    with pytest.raises(Refused, match="Grammar error") as refused:
        Chunks(sequence(CASES["bad lark"])).hear(events(CASES["bad lark"])[0])
    assert isinstance(refused.value.error, InvalidRequest)


def test_other_refusals() -> None:
    assert isinstance(refusal(500, b"<html>"), InferenceFailed)
    assert isinstance(refusal(503, b""), NotReady)
    with pytest.raises(Refused) as refused:
        Chunks(sequence(CASES["greedy"])).hear(b'{"error": {"message": "no", "code": 500}}')
    assert isinstance(refused.value.error, InferenceFailed)


def test_a_cancelled_text_hears_nothing() -> None:
    one = sequence(CASES["greedy"])
    chunks = Chunks(one)
    assert not chunks.hear(events(CASES["greedy"])[0])
    one.cancelled = True
    assert chunks.hear(events(CASES["greedy"])[1])
    assert chunks.finish is None
    assert chunks.count == 1


@pytest.mark.parametrize(
    "event",
    [
        b'{"choices": 5}',
        b'{"choices": [{"token_ids": [1, 2], "logprobs": {"token_logprobs": [-1.0], "top_logprobs": [{}]}}]}',
        b'{"choices": [{"token_ids": [1], "logprobs": {"token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}]}}]}',
    ],
)
def test_what_is_not_understood(event: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        Chunks(sequence(CASES["logprobs"])).hear(event)


def test_a_text_that_vllm_gives_up() -> None:
    chunks = Chunks(sequence(CASES["greedy"]))
    assert chunks.hear(b'{"choices": [{"token_ids": [], "finish_reason": "abort"}]}')
    assert isinstance(chunks.finish, InferenceFailed)


def shape(value: Any) -> Any:
    """Keys and kinds; of a mapping by token ids, and of a list, one element."""
    if isinstance(value, dict):
        if value and all(key.removeprefix("token_id:").isdigit() for key in value):
            return {"token": shape(next(iter(value.values())))}
        return {key: shape(one) for key, one in value.items()}
    if isinstance(value, list):
        return [shape(one) for one in value[-1:]]
    return type(value).__name__


@pytest.mark.parametrize("name", ["greedy", "logprobs", "no top logprobs"])
def test_the_stand_in_streams_as_it_does(name: str) -> None:
    real = [json.loads(event) for event in events(CASES[name])]
    fake = [json.loads(event[6:]) for event in fake_vllm.events(CASES[name]["asked"])[:-1]]
    assert len(real) == len(fake)
    assert [shape(event) for event in fake] == [shape(event) for event in real]


@pytest.mark.parametrize("name", ["scored", "only scored"])
def test_the_stand_in_scores_as_it_does(name: str) -> None:
    real, fake = json.loads(CASES[name]["told"]), fake_vllm.whole(CASES[name]["asked"])
    assert shape(fake["choices"]) == shape(real["choices"])
    assert fake["usage"].items() <= real["usage"].items()


def test_the_stand_in_knows_what_is_asked_of_the_rest() -> None:
    card = RECORDED["models"]["data"][0]
    assert (card["id"], card["max_model_len"]) == ("m", 256)
    for name in ("num_requests_running", "num_requests_waiting", "generation_tokens_total"):
        assert any(line.startswith(f"# TYPE vllm:{name} ") for line in RECORDED["metrics"])
