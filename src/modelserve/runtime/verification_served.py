"""A loaded model asked as callers ask it: all texts together, in requests of their own, and each alone.

Knows no reference. Runs on an event loop of its own, and computes where the server computes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np

from modelserve.config import Config
from modelserve.errors import ConfigError, InvalidRequest
from modelserve.generation import GenerateRequest, Sampling
from modelserve.runtime.heads import GENERATIVE
from modelserve.runtime.service import Service
from modelserve.runtime.verification_texts import Asked
from modelserve.types import Array, InferRequest, Params, TextPair

T = TypeVar("T")

_CROWD = 64
"""Callers at once."""
_NUMBERS = 2**19
"""Of a vocabulary's logits that are held as JSON values at once: 128 MiB."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Written:
    """A text as the server wrote it."""

    new: list[int]
    logprobs: list[float]


@dataclass(frozen=True, slots=True)
class Answers:
    """To every text, in order: numbers, or what was written."""

    together: list[Any]
    alone: list[Any]


def ask(service: Service, config: Config, texts: Sequence[Asked], new: int, say: Say) -> Answers:
    """new: tokens of a text that is written. Raises what the server would answer with."""
    if service.task_name in GENERATIVE:
        assert service.writing is not None
        lacks = service.writing.generator.engine.limits.lacks & {"logprobs", "ignore_eos"}
        if lacks:
            raise ConfigError(f"the {service.backend_name} backend has no {min(lacks)}, by which texts are compared")
    at_once = min(_CROWD, config.max_queue_size)
    if service.task_name == "fill_mask":
        assert service.info is not None
        at_once = min(at_once, max(2, _NUMBERS // service.info.config.get("vocab_size", _NUMBERS)))

    async def one(text: Asked) -> Any:
        return await (_written if service.task_name in GENERATIVE else _numbers)(service, text, new)

    async def both() -> Answers:
        say("served: all texts together")
        together = await _crowd([partial(one, text) for text in texts], at_once)
        alone = []
        for number, text in enumerate(texts, 1):
            say(f"served: text {number} of {len(texts)} alone")
            alone.append(await one(text))
        return Answers(together, alone)

    return asyncio.run(both())


def refusal_of_pairs(service: Service, texts: Sequence[Asked]) -> str:
    """Why it reads no pairs of texts, where there are some; "" where it does. A remote predictor may know no types."""
    pair = next((text for text in texts if isinstance(text, TextPair)), None)
    if pair is None:
        return ""
    try:
        asyncio.run(_numbers(service, pair, 0))
    except InvalidRequest as error:
        return error.message
    return ""


async def _crowd(calls: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """All of them, so many at a time. The first that fails ends the others."""
    room = asyncio.Semaphore(at_once)

    async def wait(call: Callable[[], Awaitable[T]]) -> T:
        async with room:
            return await call()

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(wait(call)) for call in calls]
    except ExceptionGroup as failed:  # not `except*`: before Python 3.11.4 it wraps what is raised in a group again
        raise failed.exceptions[0] from None
    return [task.result() for task in tasks]


async def _numbers(service: Service, text: Asked, new: int) -> Array:
    """The vector, or the logits: [1, C], [tokens, C] or [masks, vocabulary]."""
    if service.task_name == "text_embedding":
        answer = await service.infer(InferRequest("model", [text]))
        return np.asarray(answer.predictions[0], np.float32)
    answer = await service.infer(InferRequest("model", [text], Params(return_raw_logits=True)))
    (found,) = answer.predictions
    if service.task_name == "sequence_classification":
        return np.array([list(found.values())], np.float32)
    if service.task_name == "token_classification":
        return np.array([list(row.values()) for row in found], np.float32)
    rows = [np.fromiter((next(iter(one.values())) for one in row), np.float32, len(row)) for row in found]
    return np.stack(rows)


async def _written(service: Service, text: Asked, new: int) -> Written:
    assert service.writing is not None
    sampling = Sampling(max_tokens=new, temperature=0.0, logprobs=0, ignore_eos=True)
    request = GenerateRequest(model_name="model", prompts=[str(text)], sampling=sampling)
    generated, _ = await service.writing.collect(request)
    (choice,) = generated.choices
    return Written([token.id for token in choice.tokens], [token.logprob for token in choice.tokens])
