"""Generation as the server sees it: from a request to pieces of text, whatever engine makes the tokens.

What waits is bounded here, and counted; an engine (backends/engine.py) has the rest. Knows no protocol.
`generate` runs on the event loop; prompts are tokenised on the tokenizer's threads; a choice's tokens become text on
the engine's thread, so that a stop string ends the computing within one step.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Sequence

from modelserve.backends.engine import Engine
from modelserve.errors import InvalidRequest, ModelServeError, NotReady, Overloaded, RequestTooLarge
from modelserve.generation import (
    Choice,
    Constraint,
    Finish,
    Generated,
    GenerateRequest,
    Piece,
    Sampling,
    Token,
)
from modelserve.generation import Sequence as Text
from modelserve.runtime import metrics
from modelserve.runtime.grammar import Grammars
from modelserve.runtime.meter import Meter
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.runtime.vocabulary import Vocabulary
from modelserve.runtime.writer import Writer, Written, written_prompt
from modelserve.types import InferResponse, Instance, Params, Timings, TokenIds

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5
_PENALTY = 1000.0
"""Logits are multiplied by it, and divided: with far more, or less, they would be no numbers."""

Prepare = Callable[[Callable[[], list["_Choice"]]], Awaitable[list["_Choice"]]]
"""Runs something on a thread that prompts are prepared on."""


class Generation:
    """One request under way: an async iterator of the pieces of all its choices, as they come.

    Lives on the event loop. Close it (`aclose`) when nobody reads it to its end: the engine goes on otherwise.
    """

    def __init__(self, generator: Generator, request: GenerateRequest, streamed: bool) -> None:
        self.request = request
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.timings = Timings()
        self.streamed = streamed
        self._generator = generator
        self._loop = asyncio.get_running_loop()
        self._pieces: asyncio.Queue[Piece | ModelServeError] = asyncio.Queue()
        self._choices: list[_Choice] = []
        self._open = 0
        self._started = time.monotonic()
        self._first = 0.0

    @property
    def response(self) -> InferResponse:
        """The counts and times so far, for the log and the metrics."""
        tokens = [self.prompt_tokens + self.completion_tokens]
        return InferResponse(self.request.model_name, self.request.id, tokens=tokens, timings=self.timings)

    def __aiter__(self) -> Generation:
        return self

    async def __anext__(self) -> Piece:
        """Raises InferenceFailed, NotReady: what ended one of its texts; the others are cancelled then."""
        if not self._open:
            raise StopAsyncIteration
        piece = await self._pieces.get()
        if isinstance(piece, ModelServeError):
            await self.aclose()
            raise piece
        if piece.finish is not None:
            self._open -= 1
            self.completion_tokens += piece.completion_tokens
            if not self._open:
                self._generator.forget(self)
        return piece

    async def aclose(self) -> None:
        """Cancel what is left of it."""
        self._open = 0
        for choice in self._choices:
            choice.leave()
        self._generator.forget(self)

    def begin(self, choices: list[_Choice]) -> None:
        self._choices = choices
        self._open = len(choices)

    def began(self) -> None:
        """From the engine's thread: a choice has its first token."""
        if not self._first:
            self._first = time.monotonic()

    def post(self, piece: Piece | ModelServeError) -> None:
        """From any thread."""
        try:
            self._loop.call_soon_threadsafe(self._arrived, piece)
        except RuntimeError:  # the loop is closed: the process is ending and nobody waits
            log.debug("a piece came after the event loop had closed")

    def _arrived(self, piece: Piece | ModelServeError) -> None:
        now = time.monotonic()
        first = self._first or now
        self.timings.queue_s, self.timings.inference_s = first - self._started, now - first
        self._pieces.put_nowait(piece)


class _Choice:
    """One text of a request: the sink of its sequence. `scored`, `put` and `end` come from the engine's thread."""

    sequence: Text

    def __init__(
        self, generation: Generation, engine: Engine, index: int, writer: Writer, vocabulary: Vocabulary
    ) -> None:
        self._generation = generation
        self._engine = engine
        self._index = index
        self._writer = writer
        self._vocabulary = vocabulary
        self._count = 0
        self._held: list[Written] = []
        self._meter: Meter | None = None

    def start(self) -> None:
        """Hand it to the engine."""
        self._meter = Meter(self._generation.request.model_name)
        self._engine.start(self.sequence)

    def echo(self, text: str) -> None:
        """The prompt's text comes first."""
        self._held.append(Written(text))

    def scored(self, tokens: Sequence[Token]) -> None:
        self._held.append(Written("", tuple(written_prompt(self._vocabulary, tokens))))

    def put(self, token: Token) -> bool:
        if not self._count:
            self._generation.began()
        self._count += 1
        self._metered().token()
        written = self._writer.put(token, silent=token.id in self.sequence.end_ids)
        if written.stopped is not None:
            self._finish("stop", written, written.stopped)
            return False
        if token.id in self.sequence.sampling.stop_token_ids:
            self._stop = token.id
        self._held.append(written)
        if self._generation.streamed and (written.text or written.tokens):
            self._generation.post(self._piece())
        return True

    def end(self, finish: Finish | ModelServeError) -> None:
        if isinstance(finish, ModelServeError):
            self._metered().end()
            self._generation.post(finish)
            return
        written = self._writer.end()
        self._finish("stop" if written.stopped is not None else finish, written, written.stopped or self._stop)

    def leave(self) -> None:
        """On the event loop: nobody reads on."""
        if self._meter is not None and self._meter.open:
            self._engine.cancel(self.sequence)
            self._meter.end()

    _stop: int | None = None
    """The caller's stop token that was put."""

    def _metered(self) -> Meter:
        assert self._meter is not None, "tokens came before the start"
        return self._meter

    def _finish(self, finish: Finish, last: Written, stop: str | int | None) -> None:
        self._metered().end()
        self._held.append(last)
        self._generation.post(self._piece(finish, stop))

    def _piece(self, finish: Finish | None = None, stop: str | int | None = None) -> Piece:
        held, self._held = self._held, []
        text = "".join(written.text for written in held)
        tokens = tuple(token for written in held for token in written.tokens)
        return Piece(self._index, text, tokens, finish, stop, self._count)


class Generator:
    """The requests of one generative model."""

    def __init__(
        self,
        engine: Engine,
        tokenizer: Tokenizer,
        vocabulary: Vocabulary,
        grammars: Grammars,
        *,
        max_queue_size: int,
        max_choices: int,
    ) -> None:
        self.engine = engine
        self.tokenizer = tokenizer
        self._vocabulary = vocabulary
        self._grammars = grammars
        self._max_queue_size = max_queue_size
        self._max_choices = max_choices
        self._open: set[Generation] = set()
        self._closed = False
        self._seeds = random.SystemRandom()

    async def generate(self, request: GenerateRequest, prepare: Prepare, *, streamed: bool = True) -> Generation:
        """The request under way: checked, tokenised (by `prepare`, on another thread) and taken on.

        Raises InvalidRequest, RequestTooLarge, Overloaded, NotReady.
        """
        if self._closed or self.engine.lost:
            raise NotReady(
                "the server is shutting down"
                if self._closed
                else "the engine has failed; this server must be restarted"
            )
        choices = len(request.prompts) * request.n
        if not choices:
            raise InvalidRequest("The request has no prompt; send at least one.", param="prompt")
        if choices > self._max_choices:
            raise RequestTooLarge(
                f"The request asks for {choices} texts, at most {self._max_choices} are allowed "
                "(--max_client_batch_size).",
                param="n",
            )
        waiting = self.engine.waiting()
        if waiting + choices > self._max_queue_size:
            raise Overloaded(
                f"{waiting} texts are waiting to be generated and {choices} more do not fit the queue of "
                f"{self._max_queue_size} (--max_queue_size); come back later",
                retry_after_s=_RETRY_AFTER_S,
            )
        self._check(request.sampling)
        generation = Generation(self, request, streamed)
        self._open.add(generation)
        try:
            started = time.perf_counter()
            made = await prepare(lambda: self._prepare(generation))
            generation.timings.tokenization_s = time.perf_counter() - started
            if self._closed:
                raise NotReady("the server is shutting down")
            generation.begin(made)
        except BaseException:
            self.forget(generation)
            raise
        metrics.tokens.inc(generation.prompt_tokens)
        for choice in made:
            choice.start()
        return generation

    async def collect(self, request: GenerateRequest, prepare: Prepare) -> tuple[Generated, InferResponse]:
        """Everything at once, and the counts and times; cancelling the caller's task cancels the generation."""
        generation = await self.generate(request, prepare, streamed=False)
        found = [Choice(index) for index in range(len(request.prompts) * request.n)]
        try:
            async for piece in generation:
                found[piece.index] = Choice(piece.index, piece.text, list(piece.tokens), piece.finish, piece.stop)
        finally:
            await generation.aclose()
        answer = Generated(
            request.model_name, request.id, found, generation.prompt_tokens, generation.completion_tokens
        )
        return answer, generation.response

    def forget(self, generation: Generation) -> None:
        self._open.discard(generation)

    def busy(self) -> bool:
        """Somebody is being written for."""
        return bool(self._open)

    def close(self) -> None:
        """Refuse what comes, end what runs (NotReady). Returns at once."""
        if not self._closed:
            self._closed = True
            self.engine.close()

    def _check(self, sampling: Sampling) -> None:
        """Raises InvalidRequest for what the engine cannot do."""
        standard = Sampling()
        for name in self.engine.limits.lacks:
            if getattr(sampling, name) != getattr(standard, name):
                raise InvalidRequest(f"{name} is not supported by the backend that serves this model.", param=name)
        if not 1 / _PENALTY <= sampling.repetition_penalty <= _PENALTY:
            raise InvalidRequest(
                f"repetition_penalty is {sampling.repetition_penalty:g}; it is a number from {1 / _PENALTY:g} to "
                f"{_PENALTY:g}.",
                param="repetition_penalty",
            )
        rows = self.tokenizer.rows
        for id in (*sampling.logit_bias, *sampling.stop_token_ids):
            if not 0 <= id < rows:
                name = "logit_bias" if id in sampling.logit_bias else "stop_token_ids"
                raise InvalidRequest(
                    f"{name} names the token {id}, the vocabulary has ids from 0 to {rows - 1}.", param=name
                )

    def _prepare(self, generation: Generation) -> list[_Choice]:
        """In a thread of the pool: the sequences of all choices. Raises InvalidRequest."""
        request = generation.request
        prompts = [self._prompt(prompt, request.special_tokens) for prompt in request.prompts]
        generation.prompt_tokens = sum(map(len, prompts))
        grammar = request.sampling.grammar
        compiled = self._grammars.compile(grammar) if grammar is not None else None
        choices: list[_Choice] = []
        for prompt in prompts:
            limit = self._max_tokens(len(prompt), request)
            for _ in range(request.n):
                constraint = compiled() if compiled is not None else None
                choices.append(self._choice(generation, len(choices), prompt, limit, constraint))
        return choices

    def _choice(
        self, generation: Generation, index: int, prompt: list[int], limit: int, constraint: Constraint | None
    ) -> _Choice:
        request, sampling = generation.request, generation.request.sampling
        echo = ""
        if request.echo:
            given = request.prompts[index // request.n]
            echo = given if isinstance(given, str) else self.tokenizer.decode(given, skip_special=True)
        writer = Writer(
            self._vocabulary,
            stop=sampling.stop,
            skip_special=request.skip_special_tokens,
            prompt=() if self.engine.limits.encoder_decoder else prompt,
            logprobs=sampling.logprobs is not None,
            offset=len(echo),
        )
        ends = set(sampling.stop_token_ids)
        if not sampling.ignore_eos:
            ends.update(self.engine.end_ids)
        # The choices of one prompt must differ; the same prompt in another place of the request must not.
        seed = self._seeds.getrandbits(63) if sampling.seed is None else sampling.seed + index % request.n
        choice = _Choice(generation, self.engine, index, writer, self._vocabulary)
        choice.sequence = Text(
            prompt, sampling, limit, frozenset(ends), seed, choice, constraint, model_name=request.model_name
        )
        if echo:
            choice.echo(echo)
        return choice

    def _prompt(self, prompt: str | list[int], special_tokens: bool) -> list[int]:
        """Raises InvalidRequest for no tokens, ids that are no token's, and more than the context has."""
        instance: Instance = prompt if isinstance(prompt, str) else TokenIds(prompt)
        if isinstance(prompt, str) and not special_tokens:
            instance = TokenIds(self.tokenizer.ids(prompt))
        encoding = self.tokenizer([instance], Params())[0]
        if encoding.dropped:
            raise InvalidRequest(
                f"The prompt has {len(encoding) + encoding.dropped} tokens; the model's context has "
                f"{self.engine.limits.context_length}.",
                param="prompt",
            )
        return encoding.ids

    def _max_tokens(self, prompt: int, request: GenerateRequest) -> int:
        """How many tokens this prompt may be answered with. Raises InvalidRequest when the context has not so many."""
        limits = self.engine.limits
        left = limits.context_length - (0 if limits.encoder_decoder else prompt)
        wanted = request.sampling.max_tokens
        if prompt > limits.context_length or left < (1 if wanted is None else wanted):
            asked = "" if wanted is None else f" and {wanted} are asked for in the answer (max_tokens)"
            raise InvalidRequest(
                f"The prompt has {prompt} tokens{asked}; the model's context has {limits.context_length}"
                f"{' for each of them' if limits.encoder_decoder else ' for both'}.",
                param="max_tokens" if wanted is not None and prompt < limits.context_length else "prompt",
            )
        return min(left, request.usual_tokens or left) if wanted is None else wanted
