"""Every field of a text's sampling, in vLLM's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelserve.backends.vllm_request import body
from modelserve.generation import Grammar, Sampling, Sequence

PLAIN = {
    "model": "m",
    "prompt": [1, 2],
    "stream": True,
    "return_token_ids": True,
    "max_tokens": 5,
    "stop_token_ids": [2, 7],
    "ignore_eos": True,
}
BLANK = {"x-guidance": {"whitespace_pattern": "[ ]?"}}


def asked(max_tokens: int = 5, **sampling: Any) -> dict[str, Any]:
    ends = frozenset({7, 2})
    sink: Any = None
    sent = body(Sequence([1, 2], Sampling(**sampling), max_tokens, ends, 3, sink, model_name="m"))
    told: dict[str, Any] = json.loads(sent)
    return told


@pytest.mark.parametrize(
    ("sampling", "said"),
    [
        ({}, {}),
        ({"temperature": 0.0}, {"temperature": 0.0}),
        ({"top_p": 0.5, "top_k": 3, "min_p": 0.1}, {"top_p": 0.5, "top_k": 3, "min_p": 0.1}),
        ({"top_p": 0.0}, {"top_p": 1e-6}),
        (
            {"presence_penalty": 0.5, "frequency_penalty": -1.0, "repetition_penalty": 1.2},
            {"presence_penalty": 0.5, "frequency_penalty": -1.0, "repetition_penalty": 1.2},
        ),
        ({"seed": 99}, {"seed": 3}),
        ({"min_tokens": 2}, {"min_tokens": 2}),
        ({"min_tokens": 9}, {"min_tokens": 5}),
        ({"stop": ("x",)}, {}),
        ({"logit_bias": {7: -100.0}}, {"logit_bias": {"7": -100.0}}),
        ({"logprobs": 0}, {"logprobs": 0, "return_tokens_as_token_ids": True}),
        (
            {"logprobs": 4, "prompt_logprobs": True},
            {"logprobs": 4, "prompt_logprobs": 4, "return_tokens_as_token_ids": True, "stream": False},
        ),
        (
            {"grammar": Grammar("json_object")},
            {"structured_outputs": {"json": {"type": "object"} | BLANK}, "ignore_eos": False},
        ),
        (
            {"grammar": Grammar("json_schema", '{"type": "array"}')},
            {"structured_outputs": {"json": {"type": "array"} | BLANK}, "ignore_eos": False},
        ),
        ({"grammar": Grammar("json_schema", "true")}, {"structured_outputs": {"json": "true"}, "ignore_eos": False}),
        ({"grammar": Grammar("regex", "a+")}, {"structured_outputs": {"regex": "a+"}, "ignore_eos": False}),
        (
            {"grammar": Grammar("lark", 'start: "a"'), "ignore_eos": True},
            {"structured_outputs": {"grammar": 'start: "a"'}, "ignore_eos": True},
        ),
    ],
)
def test_what_vllm_is_asked(sampling: dict[str, Any], said: dict[str, Any]) -> None:
    assert asked(**sampling) == PLAIN | said


def test_every_field_of_sampling_is_said_or_is_the_servers() -> None:
    ours = {"max_tokens", "ignore_eos", "stop", "stop_token_ids"}  # resolved in the sequence, or watched for here
    other: dict[str, Any] = {
        name: {"seed": 1, "logprobs": 1, "prompt_logprobs": True, "logit_bias": {1: 1.0}, "min_tokens": 1}.get(
            name, 0.5
        )
        for name in Sampling.__dataclass_fields__
        if name not in ours | {"grammar"}
    } | {"grammar": Grammar("json_object")}
    for name, value in other.items():
        assert asked(**{name: value}) != PLAIN, name


def test_nothing_is_written_only_where_the_prompt_is_scored() -> None:
    assert asked(max_tokens=0, prompt_logprobs=True)["max_tokens"] == 1


def test_a_seed_fits_64_bits() -> None:
    sink: Any = None
    sampling = Sampling(seed=2**63 - 1)
    sent = body(Sequence([1], sampling, 5, frozenset(), 2**63 + 5, sink, model_name="m"))
    assert json.loads(sent)["seed"] == 5
