"""A stand-in for a model that writes: a test says which pieces, and sees what was asked and what was cancelled."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from modelserve.errors import ModelServeError
from modelserve.generation import Choice, Finish, Generated, GenerateRequest, Grammar, Piece, WrittenToken
from modelserve.protocols.chat_answer import Words
from modelserve.types import InferResponse, Timings
from tests.protocols.rest import StandIn

Script = Callable[[GenerateRequest], Sequence[Piece | Exception]]


def words(*texts: str, finish: Finish = "stop", index: int = 0, tokens: bool = False) -> list[Piece]:
    """A piece for each text, of one token each, and one for the token that ends it."""
    pieces = [
        Piece(index, text, (token(text),) if tokens else (), completion_tokens=number)
        for number, text in enumerate(texts, 1)
    ]
    return [*pieces, Piece(index, "", finish=finish, completion_tokens=len(texts) + (finish == "stop"))]


def token(text: str, logprob: float = -0.5, top: Sequence[tuple[str, float]] = (), offset: int = 0) -> WrittenToken:
    likely = tuple((one, one.encode(), value) for one, value in top)
    return WrittenToken(7, text, text.encode(), logprob, likely, offset)


def hello(request: GenerateRequest) -> list[Piece]:
    """Hello world, to every choice."""
    choices = len(request.prompts) * request.n
    return [piece for index in range(choices) for piece in words("Hello", " world", index=index)]


class Writing:
    """A generation by script; waits for `gate` before each piece after the first `free`."""

    def __init__(self, author: Author, request: GenerateRequest) -> None:
        self.prompt_tokens = sum(
            len(prompt.split() if isinstance(prompt, str) else prompt) for prompt in request.prompts
        )
        self.timings = Timings(queue_s=0.25, inference_s=0.5)
        self.closed = asyncio.Event()
        self._author, self._request = author, request
        self._written: dict[int, int] = {}
        self._pieces = self._play()

    @property
    def response(self) -> InferResponse:
        tokens = [self.prompt_tokens + sum(self._written.values())]
        return InferResponse(self._request.model_name, self._request.id, tokens=tokens, timings=self.timings)

    def __aiter__(self) -> AsyncIterator[Piece]:
        return self._pieces

    async def _play(self) -> AsyncIterator[Piece]:
        for number, piece in enumerate(self._author.script(self._request)):
            if number >= self._author.free:
                await self._author.gate.wait()
            if isinstance(piece, Exception):
                raise piece
            self._written[piece.index] = piece.completion_tokens
            yield piece

    async def aclose(self) -> None:
        self.closed.set()


class Calls:
    """Reads `<name arguments>` as a call and all else as content; holds back what may be the beginning of one."""

    def __init__(self, grammar: Grammar | None) -> None:
        self.grammar = grammar
        self._held = ""
        self._calls = -1
        self._inside = False

    def feed(self, text: str) -> list[Words]:
        found: list[Words] = []
        for part in re.findall(r"[^<> ]+|.", text):
            if part == "<":
                self._held, self._inside = "<", True
            elif part == ">":
                self._held, self._inside = "", False
            elif self._held:
                self._held += part
                if part == " ":
                    self._calls += 1
                    found.append(Words("", self._calls, f"call-{self._calls}", self._held[1:-1]))
                    self._held = ""
            elif self._inside:
                found.append(Words("", self._calls, arguments=part))
            else:
                found.append(Words(part))
        return found

    def end(self) -> list[Words]:
        return [Words(self._held)] if self._held else []


@dataclass
class Author(StandIn):
    """refuses: what `generate` raises. template: what the messages become."""

    task_name: str | None = "text_generation"
    generates: bool = True
    script: Script = hello
    refuses: ModelServeError | None = None
    free: int = 1_000_000
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    asked: list[GenerateRequest] = field(default_factory=list)
    chats: list[dict[str, Any]] = field(default_factory=list)
    writings: list[Writing] = field(default_factory=list)
    calls: bool = True
    choices: list[Any] = field(default_factory=list)
    one_calls: list[bool] = field(default_factory=list)

    def tool_reader(
        self, tools: list[dict[str, Any]], tool_choice: str | dict[str, Any], *, one_call: bool = False
    ) -> Calls | None:
        self.choices.append(tool_choice)
        self.one_calls.append(one_call)
        return Calls(None if tool_choice == "auto" else Grammar("json_object")) if self.calls else None

    async def generate(self, request: GenerateRequest) -> Writing:
        self.asked.append(request)
        if self.refuses is not None:
            raise self.refuses
        self.writings.append(Writing(self, request))
        return self.writings[-1]

    async def collect(self, request: GenerateRequest) -> tuple[Generated, InferResponse]:
        writing = await self.generate(request)
        found = [Choice(index) for index in range(len(request.prompts) * request.n)]
        try:
            async for piece in writing:
                choice = found[piece.index]
                choice.text += piece.text
                choice.tokens += piece.tokens
                choice.finish, choice.stop = piece.finish, piece.stop
        finally:
            await writing.aclose()
        completion = sum(writing._written.values())
        return Generated(request.model_name, request.id, found, writing.prompt_tokens, completion), writing.response

    async def chat_prompt(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        """An id for each word of the messages."""
        self.chats.append({"messages": messages, **options})
        if self.refuses is not None:
            raise self.refuses
        return list(range(sum(len((message["content"] or "").split()) for message in messages)))
