"""The values of generation, in the order in which a request meets them.

GenerateRequest -> Sequence -> Token -> Piece -> Generated. Knows no protocol, no engine and no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal, Protocol

from modelserve.errors import ModelServeError
from modelserve.types import Array

Finish = Literal["stop", "length"]
"""Why a text ended: the model or a stop string ended it, or --max_tokens or the context did."""


@dataclass(frozen=True, slots=True)
class Grammar:
    """What a generated text must be.

    json_object: any JSON object. json_schema, regex, lark: `source` is the schema (JSON text), the expression or the
    grammar.
    """

    form: Literal["json_object", "json_schema", "regex", "lark"]
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampling:
    """How tokens are chosen and when to stop; OpenAI's names and meanings, and vLLM's for what OpenAI has not.

    temperature 0: greedy, whatever the others say. top_k 0, top_p 1, min_p 0: off. max_tokens None: what the context
    leaves. logprobs: how many of the likeliest tokens to tell beside the chosen one's logprob, None for no logprobs at
    all. Logprobs are those of the model: before temperature, penalties, bias and grammar.
    """

    max_tokens: int | None = None
    min_tokens: int = 0
    """Before so many the end tokens are not chosen."""
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    """Tokens less likely than so many times the likeliest are not chosen."""
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts that end the generation and are not part of it."""
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    logprobs: int | None = None
    prompt_logprobs: bool = False
    """Score the prompt's tokens too (`echo` with `logprobs`)."""
    logit_bias: Mapping[int, float] = field(default_factory=lambda: MappingProxyType({}))
    presence_penalty: float = 0.0
    """Taken off the logit of every token that was generated before."""
    frequency_penalty: float = 0.0
    """Taken off once for each time that it was generated."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens in the prompt or generated (Keskar et al. 2019)."""
    grammar: Grammar | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GenerateRequest:
    """What a protocol understood of the bytes. A prompt is a text, or its token ids (special tokens included)."""

    model_name: str
    """The model's, or that of an adapter of it."""
    prompts: list[str | list[int]]
    sampling: Sampling = Sampling()
    usual_tokens: int | None = None
    """Most tokens where `sampling.max_tokens` says nothing, as far as the context has them; None for all it has."""
    n: int = 1
    """Texts per prompt; number j of prompt i is choice i * n + j."""
    echo: bool = False
    """The prompt's text comes first in the answer (and, with prompt_logprobs, its tokens)."""
    special_tokens: bool = True
    """Add the tokenizer's own special tokens to texts; false for what a chat template has written."""
    skip_special_tokens: bool = True
    """Leave special tokens out of the generated text."""
    id: str = ""
    api: str = ""
    """Which API it came over: v1, v2, grpc, openai (a metric label)."""


@dataclass(frozen=True, slots=True)
class Token:
    """One generated (or scored) token. logprob and top, natural logarithms, only where logprobs were asked for.

    top: (token id, logprob), the likeliest first; as many as `Sampling.logprobs`.
    """

    id: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()


class Sink(Protocol):
    """Where an engine puts what it makes of a sequence; called from one thread of the engine, in order."""

    def scored(self, tokens: Seq[Token]) -> None:
        """The prompt's tokens with their logprobs, once and first, where `Sampling.prompt_logprobs` asked for them.
        The first has none: its logprob is NaN and its top is empty."""

    def put(self, token: Token) -> bool:
        """The next token. False: that was enough (a stop string); the engine stops at once and calls nothing more."""

    def end(self, finish: Finish | ModelServeError) -> None:
        """The last call, except after `put` said False or the sequence was cancelled. An end token has been put."""


class Constraint(Protocol):
    """A grammar at work on one sequence; used by the engine's thread only."""

    def mask(self) -> Array:
        """Which tokens may come next: uint32 [ceil(vocabulary / 32)], bit i % 32 of word i // 32 for token i."""

    def accept(self, token: int) -> None:
        """This one has been chosen."""

    @property
    def complete(self) -> bool:
        """Nothing can follow but the end."""


@dataclass(slots=True, eq=False)
class Sequence:
    """One text in the making, as an engine sees it."""

    prompt: list[int]
    sampling: Sampling
    max_tokens: int
    """Resolved and checked: prompt and this fit the context. 0 only with prompt_logprobs: score and end."""
    end_ids: frozenset[int]
    """Tokens that end it ("stop"): the model's and the caller's; empty with ignore_eos and without stop_token_ids."""
    seed: int
    """Of this sequence's own random numbers."""
    sink: Sink
    constraint: Constraint | None = None
    model_name: str = ""
    """The name that was asked for: the model's, or one of `EngineLimits.adapters`."""
    cancelled: bool = False
    """Set by `Engine.cancel`, read by the engine's thread between steps."""


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token as a client may read it.

    text: what it adds, or `bytes:\\xe2\\x82` where it is no whole characters. raw: its UTF-8 bytes. offset: characters
    of the choice's text (prompt included when echoed) before it.
    """

    id: int
    text: str
    raw: bytes
    logprob: float
    top: tuple[tuple[str, bytes, float], ...] = ()
    """(text, bytes, logprob) of the likeliest."""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Piece:
    """A further part of one choice. The pieces of a choice joined are its text; none splits a character."""

    index: int
    text: str
    tokens: tuple[WrittenToken, ...] = ()
    """Only where logprobs were asked for; those whose text is in this piece."""
    finish: Finish | None = None
    """In the last piece of a choice, which may have no text."""
    stop: str | int | None = None
    """The stop string or token id that ended it; None for the model's own end."""
    completion_tokens: int = 0
    """Tokens generated so far for this choice, an end token included."""


@dataclass(slots=True, eq=False)
class Generated:
    """Everything that a request was answered: its choices in order, and the counts."""

    model_name: str
    id: str
    choices: list[Choice] = field(default_factory=list)
    prompt_tokens: int = 0
    """Of all prompts, each counted once whatever `n` is."""
    completion_tokens: int = 0


@dataclass(slots=True, eq=False)
class Choice:
    """One finished text."""

    index: int
    text: str = ""
    tokens: list[WrittenToken] = field(default_factory=list)
    finish: Finish | None = None
    stop: str | int | None = None
