"""OpenAI's chat: messages in, the assistant's next one out, whole or as a stream; tools and their calls.

Bytes <-> types only; the model's chat template makes a prompt of the messages, its tool reader finds the calls in the
text. Runs on the event loop; large bodies are read and written on a thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import time
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta

from modelserve.errors import InvalidRequest
from modelserve.generation import GenerateRequest, Sampling
from modelserve.protocols.aside import aside
from modelserve.protocols.chat_answer import (
    ChatChunk,
    ChatCompletion,
    Speech,
    ToolReader,
    chat_choices,
    chunk_choices,
)
from modelserve.protocols.chat_messages import Message, Tool, ToolChoice, messages, tools
from modelserve.protocols.exchange import Chunks, Exchange, Reply, encode
from modelserve.protocols.generation import Meter, asks, generative, writing, written
from modelserve.protocols.logprobs import TOKEN_BYTES
from modelserve.protocols.openai_errors import read
from modelserve.protocols.patience import patience
from modelserve.protocols.sampling import HINTS, MAX_LOGPROBS, Sampled, check_stream, sampling
from modelserve.protocols.sse import DONE, event
from modelserve.protocols.usage import usage

if TYPE_CHECKING:
    from modelserve.runtime.model import Model

API = "Chat Completion API"
_Count = Annotated[int, Meta(ge=1)]


class ChatRequest(Sampled, kw_only=True, forbid_unknown_fields=True):
    """The body of a chat request. Other keys are refused."""

    messages: Annotated[list[Message], Meta(extra_json_schema={"minItems": 1})]
    max_completion_tokens: _Count | None = None
    """What the context leaves when not given."""
    max_tokens: _Count | None = None
    """Its former name."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Meta(ge=0, le=MAX_LOGPROBS)] | None = None
    tools: list[Tool] | None = None
    tool_choice: ToolChoice | None = None
    """auto where there are tools."""
    parallel_tool_calls: bool | None = None
    """False: one call at most."""
    chat_template: str | None = None
    """Instead of the model's own, in Jinja."""
    chat_template_kwargs: dict[str, Any] | None = None
    """Variables of the template."""
    reasoning_effort: str | None = None
    """A variable of the template too."""
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None
    """Write on where the last message ends, instead of a new one."""
    documents: list[dict[str, Any]] | None = None
    """For templates that know documents."""
    echo: Literal[False] | None = None
    modalities: list[Literal["text"]] | None = None


_decoder = msgspec.json.Decoder(ChatRequest)
_HINTS = {
    **HINTS,
    "max_completion_tokens": "it is a number of tokens, 1 or more",
    "max_tokens": "it is a number of tokens, 1 or more",
    "top_logprobs": f"it is a number of tokens from 0 to {MAX_LOGPROBS}",
    "tool_choice": 'it is none, auto, required or {"type": "function", "function": {"name": "…"}}',
    "echo": "a chat's answer does not repeat its messages",
    "modalities": "text is the only one here",
}


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a body means, checked."""

    model_name: str
    messages: list[dict[str, Any]]
    template: dict[str, Any]
    """Options of `Model.chat_prompt`."""
    sampling: Sampling
    n: int
    tools: list[dict[str, Any]] | None
    tool_choice: str | dict[str, Any]
    """none, auto, required, or OpenAI's object that names a function."""
    one_call: bool
    logprobs: bool
    skip_special_tokens: bool


async def chat(exchange: Exchange) -> Reply:
    body = await read(exchange, _decoder, _HINTS)
    model = generative(exchange, body.model, API)
    asked = await exchange.aside(to_asked, body)
    asks(exchange, model, [str(message["content"] or "") for message in asked.messages[-1:]])
    if body.stream:
        return Reply(b"", chunks=_chunks(exchange, model, body, asked))
    async with patience(exchange):
        request = await _request(exchange, model, asked)
        generated = await written(exchange, model, request)
    speeches = [_speech(model, asked) for _ in generated.choices]
    answer = ChatCompletion(
        f"chatcmpl-{exchange.id}",
        "chat.completion",
        int(time()),
        asked.model_name,
        [],
        usage(generated.prompt_tokens, generated.completion_tokens),
    )

    def body_of() -> bytes:
        answer.choices = chat_choices(generated.choices, speeches, logprobs=asked.logprobs)
        return encode(answer)

    scored = sum(len(choice.tokens) for choice in generated.choices)
    return Reply(await aside(scored * TOKEN_BYTES, body_of))


def to_asked(body: ChatRequest) -> _Asked:
    """Raises InvalidRequest for what is not offered and for values that do not fit each other."""
    check_stream(body)
    given = messages(body.messages)
    told = tools(body.tools, body.tool_choice)
    choice = "none" if told is None else "auto" if body.tool_choice is None else body.tool_choice
    continues, begins = bool(body.continue_final_message), body.add_generation_prompt
    if continues and begins:
        raise InvalidRequest(
            "continue_final_message and add_generation_prompt are both true; a template does one of them.",
            param="continue_final_message",
        )
    wanted = sampling(body, max_tokens=_max_tokens(body), logprobs=_logprobs(body))
    if wanted.grammar is not None and told is not None:
        raise InvalidRequest(
            "A structure (response_format) and tools do not go together, unless tool_choice is none: a call has a "
            "structure of its own.",
            param="response_format",
        )
    return _Asked(
        model_name=body.model,
        messages=given,
        template={
            "tools": told,
            "template": body.chat_template,
            "template_kwargs": _variables(body),
            "add_generation_prompt": not continues
            if body.add_generation_prompt is None
            else body.add_generation_prompt,
            "continue_final_message": continues,
            "documents": body.documents,
        },
        sampling=wanted,
        n=body.n or 1,
        tools=told,
        tool_choice=msgspec.to_builtins(choice),
        one_call=body.parallel_tool_calls is False,
        logprobs=bool(body.logprobs),
        skip_special_tokens=body.skip_special_tokens is not False,
    )


def _variables(body: ChatRequest) -> dict[str, Any]:
    effort = {} if body.reasoning_effort is None else {"reasoning_effort": body.reasoning_effort}
    return effort | (body.chat_template_kwargs or {})


def _max_tokens(body: ChatRequest) -> int | None:
    new, old = body.max_completion_tokens, body.max_tokens
    if new is not None and old is not None and new != old:
        raise InvalidRequest(
            f"max_completion_tokens is {new} and max_tokens, its former name, is {old}; one of them says it.",
            param="max_tokens",
        )
    return old if new is None else new


def _logprobs(body: ChatRequest) -> int | None:
    if body.logprobs:
        return body.top_logprobs or 0
    if body.top_logprobs:
        raise InvalidRequest("top_logprobs is only allowed when logprobs is true.", param="top_logprobs")
    return None


async def _request(exchange: Exchange, model: Model, asked: _Asked) -> GenerateRequest:
    """The messages as a prompt. Raises InvalidRequest where the template cannot be applied to them."""
    reader = _reader(model, asked)
    prompt = await model.chat_prompt(asked.messages, **asked.template)
    return GenerateRequest(
        model_name=asked.model_name,
        prompts=[prompt],
        sampling=asked.sampling if reader is None else replace(asked.sampling, grammar=reader.grammar),
        n=asked.n,
        special_tokens=False,
        # Special tokens mark the calls of many models.
        skip_special_tokens=asked.skip_special_tokens and reader is None,
        id=exchange.id,
        api="openai",
    )


def _reader(model: Model, asked: _Asked) -> ToolReader | None:
    """A new reader of a choice's text, None where the model was told of no tools. Raises InvalidRequest."""
    if asked.tools is None:
        return None
    reader = model.tool_reader(asked.tools, asked.tool_choice, one_call=asked.one_call)
    if reader is None:
        raise InvalidRequest(
            f"How model {model.name} writes tool calls is not known; --tool_call_parser says it at the start.",
            param="tools",
        )
    return reader


def _speech(model: Model, asked: _Asked) -> Speech:
    return Speech(_reader(model, asked), one_call=asked.one_call)


async def _chunks(exchange: Exchange, model: Model, body: ChatRequest, asked: _Asked) -> Chunks:
    options = body.stream_options
    total = options is not None and bool(options.include_usage)
    each = options is not None and bool(options.continuous_usage_stats)
    head = ChatChunk(f"chatcmpl-{exchange.id}", "chat.completion.chunk", int(time()), asked.model_name, [])
    speeches: dict[int, Speech] = {}
    request = await _request(exchange, model, asked)
    async with writing(exchange, model, request) as generation:
        meter = Meter(generation)
        async for piece in generation:
            meter.add(piece)
            first = piece.index not in speeches
            speech = speeches.setdefault(piece.index, _speech(model, asked)) if first else speeches[piece.index]
            head.usage = meter.usage() if each else None if total else UNSET
            for choice in chunk_choices(piece, speech, first=first, logprobs=asked.logprobs):
                head.choices = [choice]
                yield event(head)
    if total:
        head.choices, head.usage = [], meter.usage()
        yield event(head)
    yield DONE
