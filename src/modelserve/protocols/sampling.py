"""How a text is written: the fields that OpenAI's completions and chat share, and vLLM's beside them -> Sampling.

OpenAI's ranges, checked as the body is read. Fields that neither knows are refused, since a caller who sends one wants
something of it; those of OpenAI that say nothing about the text are read and mean nothing. Pure functions.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from modelserve.errors import InvalidRequest
from modelserve.generation import Sampling
from modelserve.protocols.structure import Structured, grammar_of

MAX_LOGPROBS = 20
"""As many as OpenAI's chat API gives; its completions give 5."""
_MAX_STOPS = 16
"""OpenAI takes 4. Each costs time with every token."""

Natural = Annotated[int, Meta(ge=0)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
_Stop = Annotated[str, Meta(min_length=1)]


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """include_usage: one more event, with the usage of the whole. continuous_usage_stats: so far, in every event."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class Sampled(Structured, kw_only=True, forbid_unknown_fields=True):
    """The fields that completions and chat share; null is as good as absent."""

    model: str
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: Annotated[int, Meta(ge=1, le=128)] | None = None
    temperature: Annotated[float, Meta(ge=0, le=2)] | None = None
    """0 takes the likeliest token each time."""
    top_p: Share | None = None
    top_k: Annotated[int, Meta(ge=-1)] | None = None
    """0 or -1: all tokens."""
    min_p: Share | None = None
    seed: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)] | None = None
    stop: _Stop | Annotated[list[_Stop], Meta(max_length=_MAX_STOPS)] | None = None
    stop_token_ids: list[Natural] | None = None
    ignore_eos: bool | None = None
    min_tokens: Natural | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Meta(gt=0)] | None = None
    logit_bias: dict[str, Annotated[float, Meta(ge=-100, le=100)]] | None = None
    """Token id -> what is added to its logit."""
    skip_special_tokens: bool | None = None
    # OpenAI's, about who asks and how it is billed, cached and kept.
    user: str | None = None
    metadata: dict[str, Any] | None = None
    store: bool | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None


HINTS: Mapping[str, str] = MappingProxyType(
    {
        "model": "it names the model",
        "stream": "it is true or false",
        "stream_options": 'it is like {"include_usage": true}',
        "n": "it is a number of texts from 1 to 128",
        "temperature": "it is a number from 0 to 2",
        "top_p": "it is a number from 0 to 1",
        "top_k": "it is a number of tokens, 0 or -1 for all",
        "min_p": "it is a number from 0 to 1",
        "seed": "it is an integer of 64 bits",
        "stop": f"it is a text or a list of at most {_MAX_STOPS} texts, none of them empty",
        "stop_token_ids": "it is a list of token ids",
        "min_tokens": "it is a number of tokens, 0 or more",
        "presence_penalty": "it is a number from -2 to 2",
        "frequency_penalty": "it is a number from -2 to 2",
        "repetition_penalty": "it is a number above 0, and 1 for none",
        "logit_bias": 'it is an object of numbers from -100 to 100 by token id, like {"50256": -100}',
        "max_tokens": "it is a number of tokens",
        "response_format": 'it is like {"type": "json_object"}; the types are text, json_object and json_schema',
        "structured_outputs": 'it is like {"json": {…}}; the keys are json, regex, choice, grammar and json_object',
    }
)


def check_stream(asked: Sampled) -> None:
    """Raises InvalidRequest for stream_options without a stream, as OpenAI does."""
    if asked.stream_options is not None and not asked.stream:
        raise InvalidRequest("stream_options is only allowed when stream is true.", param="stream_options")


def sampling(
    asked: Sampled, *, max_tokens: int | None, logprobs: int | None = None, prompt_logprobs: bool = False
) -> Sampling:
    """Raises InvalidRequest."""
    minimum = asked.min_tokens or 0
    if max_tokens is not None and minimum > max_tokens:
        raise InvalidRequest(f"min_tokens {minimum} is more than the {max_tokens} of max_tokens.", param="min_tokens")
    return Sampling(
        max_tokens=max_tokens,
        min_tokens=minimum,
        temperature=_or(asked.temperature, 1.0),
        top_p=_or(asked.top_p, 1.0),
        top_k=max(0, asked.top_k or 0),
        min_p=asked.min_p or 0.0,
        # Not negative: some generators of random numbers take no other.
        seed=None if asked.seed is None else asked.seed % 2**63,
        stop=(asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ()),
        stop_token_ids=tuple(asked.stop_token_ids or ()),
        ignore_eos=bool(asked.ignore_eos),
        logprobs=logprobs,
        prompt_logprobs=prompt_logprobs,
        logit_bias=_bias(asked.logit_bias),
        presence_penalty=asked.presence_penalty or 0.0,
        frequency_penalty=asked.frequency_penalty or 0.0,
        repetition_penalty=_or(asked.repetition_penalty, 1.0),
        grammar=grammar_of(asked),
    )


def _or(value: float | None, otherwise: float) -> float:
    return otherwise if value is None else value


def _bias(given: Mapping[str, float] | None) -> Mapping[int, float]:
    if not given:
        return MappingProxyType({})
    for id in given:
        if not (id.isascii() and id.isdigit()):
            raise InvalidRequest(f"logit_bias has the key {id[:40]!r}; its keys are token ids.", param="logit_bias")
    return {int(id): bias for id, bias in given.items()}
