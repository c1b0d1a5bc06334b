"""OpenAI's completions: prompts in, their continuations out, whole or as a stream. Bytes <-> types only.

Runs on the event loop; large bodies are read and written on a thread.
"""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING, Annotated, Literal, cast

import msgspec
from msgspec import UNSET, Meta, UnsetType

from modelserve.errors import InvalidRequest
from modelserve.generation import Choice, Finish, GenerateRequest
from modelserve.protocols.aside import aside
from modelserve.protocols.exchange import Chunks, Exchange, Reply, encode
from modelserve.protocols.generation import Meter, asks, generative, writing, written
from modelserve.protocols.logprobs import TOKEN_BYTES, TextLogprobs, text_logprobs
from modelserve.protocols.openai_errors import read
from modelserve.protocols.patience import patience
from modelserve.protocols.sampling import HINTS, MAX_LOGPROBS, Natural, Sampled, check_stream, sampling
from modelserve.protocols.sse import DONE, event
from modelserve.protocols.usage import Usage, usage

if TYPE_CHECKING:
    from modelserve.runtime.model import Model

API = "Completions API"
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}
_PROMPTS = [
    {"type": "string"},
    {"type": "array", "minItems": 1, "items": {"type": "string"}},
    _IDS,
    {"type": "array", "minItems": 1, "items": _IDS},
]
_MAX_TOKENS = 16
"""OpenAI's default."""


class CompletionRequest(Sampled, kw_only=True, forbid_unknown_fields=True):
    """The body of a completions request. Other keys are refused."""

    prompt: Annotated[str | list[str | int | list[int]], Meta(extra_json_schema={"anyOf": _PROMPTS})]
    """A text, texts, the token ids of one text, or those of several. All elements are of one kind."""
    max_tokens: Natural | None = None
    """16 when not given; 0 only with echo, to have the prompt's tokens scored."""
    logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    echo: bool | None = None
    """The prompt comes first in the text."""
    best_of: int | None = None
    """Only as many as n: no text is written that is not given."""
    suffix: str | None = None
    """Not offered."""
    add_special_tokens: bool | None = None
    """False: the prompt has its special tokens already."""


class TextChoice(msgspec.Struct):
    """One text, or in a stream a further part of it. stop_reason: the stop text or token id that ended it."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Finish | None
    stop_reason: str | int | None = None


class Completion(msgspec.Struct):
    """The texts: number j of prompt i is choice i * n + j. In a stream, parts of them."""

    id: str
    object: Literal["text_completion"]
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: None = None


_decoder = msgspec.json.Decoder(CompletionRequest)
_PROMPT = "it is a text, a list of texts, a list of token ids or a list of such lists"
_HINTS = {
    **HINTS,
    "prompt": _PROMPT,
    "logprobs": f"it is a number of tokens from 0 to {MAX_LOGPROBS}",
    "echo": "it is true or false",
}


async def completions(exchange: Exchange) -> Reply:
    asked = await read(exchange, _decoder, _HINTS)
    model = generative(exchange, asked.model, API)
    request = await exchange.aside(to_request, asked, exchange.id)
    asks(exchange, model, request.prompts)
    head = Completion(f"cmpl-{exchange.id}", "text_completion", int(time()), asked.model, [])
    if asked.stream:
        return Reply(b"", chunks=_chunks(exchange, model, asked, request, head))
    async with patience(exchange):
        generated = await written(exchange, model, request)
    head.usage = usage(generated.prompt_tokens, generated.completion_tokens)
    scored = sum(len(choice.tokens) for choice in generated.choices)
    return Reply(await aside(scored * TOKEN_BYTES, _answer, head, generated.choices, asked.logprobs is not None))


def to_request(asked: CompletionRequest, id: str) -> GenerateRequest:
    """Raises InvalidRequest for what is not offered and for values that do not fit each other."""
    check_stream(asked)
    n, echo = asked.n or 1, bool(asked.echo)
    if asked.suffix:
        raise InvalidRequest(
            "suffix is not offered here: the text is written at the end of the prompt only.", param="suffix"
        )
    if asked.best_of is not None and asked.best_of != n:
        raise InvalidRequest(f"best_of is {asked.best_of} and n is {n}; every text is given here.", param="best_of")
    if asked.max_tokens == 0 and not echo:
        raise InvalidRequest("max_tokens is 0, which leaves no text unless echo is true.", param="max_tokens")
    scores = echo and (asked.logprobs is not None or asked.max_tokens == 0)
    logprobs = 0 if scores and asked.logprobs is None else asked.logprobs
    return GenerateRequest(
        model_name=asked.model,
        prompts=prompts(asked.prompt),
        sampling=sampling(asked, max_tokens=asked.max_tokens, logprobs=logprobs, prompt_logprobs=scores),
        usual_tokens=_MAX_TOKENS,
        n=n,
        echo=echo,
        special_tokens=asked.add_special_tokens is not False,
        skip_special_tokens=asked.skip_special_tokens is not False,
        id=id,
        api="openai",
    )


def prompts(given: str | list[str | int | list[int]]) -> list[str | list[int]]:
    """What `prompt` holds. Raises InvalidRequest for nothing and for a mixture."""
    if isinstance(given, str):
        return [given]
    kinds = {type(one) for one in given}
    if kinds == {str} or (kinds == {list} and all(given)):
        return cast("list[str | list[int]]", given)
    if kinds == {int}:
        return [cast("list[int]", given)]
    wrong = "is empty" if not given else "mixes texts and token ids" if len(kinds) > 1 else "has an empty list"
    raise InvalidRequest(f"prompt {wrong}; {_PROMPT}.", param="prompt")


def _answer(head: Completion, choices: list[Choice], logprobs: bool) -> bytes:
    head.choices = [
        TextChoice(
            choice.index,
            choice.text,
            text_logprobs(choice.tokens) if logprobs else None,
            choice.finish,
            choice.stop,
        )
        for choice in choices
    ]
    return encode(head)


async def _chunks(
    exchange: Exchange, model: Model, asked: CompletionRequest, request: GenerateRequest, head: Completion
) -> Chunks:
    options = asked.stream_options
    total = options is not None and bool(options.include_usage)
    each = options is not None and bool(options.continuous_usage_stats)
    async with writing(exchange, model, request) as generation:
        meter = Meter(generation)
        async for piece in generation:
            meter.add(piece)
            logprobs = text_logprobs(piece.tokens) if asked.logprobs is not None else None
            head.choices = [TextChoice(piece.index, piece.text, logprobs, piece.finish, piece.stop)]
            head.usage = meter.usage() if each else None if total else UNSET
            yield event(head)
    if total:
        head.choices, head.usage = [], meter.usage()
        yield event(head)
    yield DONE
