"""The answer of a chat: whole messages, or the deltas of a stream. Bytes <-> types only; pure functions.

A stream says the role once for each choice, in its first delta, and the finish_reason once, in its last.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple, Protocol

import msgspec
from msgspec import UNSET, UnsetType

from modelserve.generation import Choice, Finish, Grammar, Piece
from modelserve.protocols.logprobs import ChatLogprobs, chat_logprobs
from modelserve.protocols.usage import Usage

ChatFinish = Literal["stop", "length", "tool_calls"]


class Delta(Protocol):
    """What a piece of text turned out to be: content, or with `call` (its number) the beginning of a call, which has
    its id and name, or more of its arguments."""

    @property
    def content(self) -> str: ...
    @property
    def call(self) -> int | None: ...
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def arguments(self) -> str: ...


class ToolReader(Protocol):
    """Finds the calls in one choice's text."""

    @property
    def grammar(self) -> Grammar | None:
        """What the text must be, where a call is required."""

    def feed(self, text: str) -> Sequence[Delta]: ...
    def end(self) -> Sequence[Delta]:
        """What was held back to be understood."""


class Words(NamedTuple):
    """Content, as a Delta."""

    content: str
    call: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


class WrittenFunction(msgspec.Struct):
    """arguments: JSON text as the model wrote it."""

    name: str
    arguments: str


class ToolCall(msgspec.Struct):
    id: str
    type: Literal["function"]
    function: WrittenFunction


class AssistantMessage(msgspec.Struct):
    role: Literal["assistant"]
    content: str | None
    refusal: None = None
    tool_calls: list[ToolCall] | UnsetType = UNSET


class ChatChoice(msgspec.Struct):
    """stop_reason: the stop text or token id that ended it."""

    index: int
    message: AssistantMessage
    logprobs: ChatLogprobs | None
    finish_reason: ChatFinish | None
    stop_reason: str | int | None = None


class ChatCompletion(msgspec.Struct):
    id: str
    object: Literal["chat.completion"]
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage
    system_fingerprint: None = None


class FunctionDelta(msgspec.Struct):
    arguments: str
    name: str | UnsetType = UNSET


class CallDelta(msgspec.Struct):
    """id, type and name come in the first delta of a call; the arguments of all joined are its arguments."""

    index: int
    function: FunctionDelta
    id: str | UnsetType = UNSET
    type: Literal["function"] | UnsetType = UNSET


class MessageDelta(msgspec.Struct):
    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: list[CallDelta] | UnsetType = UNSET


class ChunkChoice(msgspec.Struct):
    index: int
    delta: MessageDelta
    logprobs: ChatLogprobs | None = None
    finish_reason: ChatFinish | None = None
    stop_reason: str | int | None = None


class ChatChunk(msgspec.Struct):
    id: str
    object: Literal["chat.completion.chunk"]
    created: int
    model: str
    choices: list[ChunkChoice]
    usage: Usage | UnsetType | None = UNSET
    system_fingerprint: None = None


class Speech:
    """The calls and the content of one choice, as its text comes. reader: None where there is nothing to be called.

    one_call: only the first call is told, for a caller who wants no parallel ones.
    """

    def __init__(self, reader: ToolReader | None, *, one_call: bool) -> None:
        self.calls = 0
        self._reader = reader
        self._one_call = one_call

    def feed(self, text: str, *, last: bool) -> list[Delta]:
        if self._reader is None:
            return [Words(text)] if text else []
        found = [*(self._reader.feed(text) if text else ()), *(self._reader.end() if last else ())]
        deltas = [delta for delta in found if delta.call is None or delta.call == 0 or not self._one_call]
        self.calls += sum(bool(delta.name) for delta in deltas)
        return deltas

    def finish(self, finish: Finish | None) -> ChatFinish | None:
        """A text that was cut off is that, whatever was called in it."""
        return "tool_calls" if finish == "stop" and self.calls else finish


def chat_choice(choice: Choice, speech: Speech, *, logprobs: bool) -> ChatChoice:
    """Of a text that is whole."""
    content, calls = "", dict[int, ToolCall]()
    for delta in speech.feed(choice.text, last=True):
        if delta.call is None:
            content += delta.content
            continue
        call = calls.setdefault(delta.call, ToolCall(delta.id, "function", WrittenFunction(delta.name, "")))
        call.function.arguments += delta.arguments
    message = AssistantMessage("assistant", content if content or not calls else None)
    if calls:
        message.tool_calls = list(calls.values())
    return ChatChoice(
        choice.index,
        message,
        chat_logprobs(choice.tokens) if logprobs else None,
        speech.finish(choice.finish),
        choice.stop,
    )


def chunk_choices(piece: Piece, speech: Speech, *, first: bool, logprobs: bool) -> list[ChunkChoice]:
    """What a piece of text becomes: a chunk for each delta, or none where the text is held back to be understood."""
    deltas = [_delta(delta) for delta in speech.feed(piece.text, last=piece.finish is not None)]
    if first:
        deltas.insert(0, MessageDelta(role="assistant", content=""))
    if not deltas and (piece.finish is not None or piece.tokens):
        deltas.append(MessageDelta())
    chunks = [ChunkChoice(piece.index, delta) for delta in deltas]
    if chunks:
        if logprobs and piece.tokens:
            chunks[-1].logprobs = chat_logprobs(piece.tokens)
        chunks[-1].finish_reason, chunks[-1].stop_reason = speech.finish(piece.finish), piece.stop
    return chunks


def _delta(delta: Delta) -> MessageDelta:
    if delta.call is None:
        return MessageDelta(content=delta.content)
    call = CallDelta(delta.call, FunctionDelta(delta.arguments))
    if delta.name:
        call.id, call.type, call.function.name = delta.id, "function", delta.name
    return MessageDelta(tool_calls=[call])


def chat_choices(choices: Sequence[Choice], speeches: Sequence[Speech], *, logprobs: bool) -> list[ChatChoice]:
    return [chat_choice(choice, speech, logprobs=logprobs) for choice, speech in zip(choices, speeches, strict=True)]
