"""What vLLM answers for a sequence: its events as tokens for the sequence's sink, its refusals as our errors.

Pure but for the sink; knows no connection. Runs in the engine's thread.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import msgspec

from modelserve.errors import InferenceFailed, InvalidRequest, ModelServeError, NotReady
from modelserve.generation import Finish, Sequence, Token

_TOKEN = "token_id:"
"""How return_tokens_as_token_ids names a token."""


class _Scores(msgspec.Struct):
    """Of generated tokens."""

    token_logprobs: list[float | None] = []
    top_logprobs: list[dict[str, float] | None] = []


class _Score(msgspec.Struct):
    logprob: float


class _Choice(msgspec.Struct):
    token_ids: list[int] | None = None
    logprobs: _Scores | None = None
    prompt_token_ids: list[int] | None = None
    prompt_logprobs: list[dict[str, _Score] | None] | None = None
    finish_reason: str | None = None


class _Error(msgspec.Struct):
    message: str = ""
    param: str | None = None
    code: int | str | None = None


class _Said(msgspec.Struct):
    choices: list[_Choice] = []
    error: _Error | None = None


_decoder = msgspec.json.Decoder(_Said)


class Refused(Exception):
    """vLLM said no, `error` why."""

    def __init__(self, error: ModelServeError) -> None:
        super().__init__(error.message)
        self.error = error


class Chunks:
    """The answer for one sequence, as it comes."""

    def __init__(self, sequence: Sequence) -> None:
        self.count = 0
        """Tokens so far."""
        self.finish: Finish | ModelServeError | None = None
        """Once it is over, what the sink is to be told; None where it has had enough or does not listen."""
        self._sequence = sequence

    def hear(self, event: bytes) -> bool:
        """One event, or the whole answer: whether it is over. Raises Refused, msgspec.DecodeError, what a sink does."""
        said = _decoder.decode(event)
        if said.error is not None:
            raise Refused(_error(said.error))
        return any(self._take(choice) for choice in said.choices)

    def _take(self, choice: _Choice) -> bool:
        sequence = self._sequence
        if self._gone():
            return True
        if choice.prompt_logprobs is not None and sequence.sampling.prompt_logprobs:
            sequence.sink.scored(_scored(sequence, choice.prompt_logprobs))
        if sequence.max_tokens == 0:  # one was asked for, since vLLM writes one at least
            self.finish = "length"
            return True
        for token in _tokens(choice, sequence.sampling.logprobs):
            self.count += 1
            if not sequence.sink.put(token) or self._gone():
                return True
        match choice.finish_reason:
            case None:
                return False
            case "stop" | "length":
                self.finish = choice.finish_reason
            case other:
                self.finish = InferenceFailed(f"vLLM gave the text up: {other}")
        return True

    def _gone(self) -> bool:
        return self._sequence.cancelled


def refusal(status: int, told: bytes) -> ModelServeError:
    """What an answer that is no 200 means to the caller."""
    try:
        said = _decoder.decode(told)
    except msgspec.DecodeError:
        said = _Said()
    error = said.error or _Error(message=f"status {status}")
    error.code = status
    return _error(error)


def _error(error: _Error) -> ModelServeError:
    """What is the caller's mistake is said as vLLM says it. The rest is ours."""
    what = " ".join(error.message.split()) or "no reason given"
    if error.code in (400, 422):
        return InvalidRequest(what, param=error.param)
    if error.code == 503:
        return NotReady(f"vLLM takes nothing on: {what}")
    return InferenceFailed(f"vLLM failed on this text: {what}")


def _tokens(choice: _Choice, wanted: int | None) -> list[Token]:
    ids = choice.token_ids or []
    if wanted is None:
        return [Token(id) for id in ids]
    scores = choice.logprobs or _Scores()
    if not len(ids) == len(scores.token_logprobs) == len(scores.top_logprobs):
        raise msgspec.DecodeError(f"{len(ids)} tokens have {len(scores.token_logprobs)} logprobs")
    return [
        Token(id, math.nan if logprob is None else logprob, _top({_id(name): lp for name, lp in top.items()}, wanted))
        for id, logprob, top in zip(ids, scores.token_logprobs, (one or {} for one in scores.top_logprobs), strict=True)
    ]


def _scored(sequence: Sequence, scores: list[dict[str, _Score] | None]) -> list[Token]:
    if len(scores) != len(sequence.prompt):
        raise msgspec.DecodeError(f"{len(sequence.prompt)} tokens of the prompt have {len(scores)} logprobs")
    found = []
    for id, score in zip(sequence.prompt, scores, strict=True):
        if score is None:
            found.append(Token(id, math.nan))
            continue
        logprobs = {_id(name): one.logprob for name, one in score.items()}
        found.append(Token(id, logprobs.get(id, math.nan), _top(logprobs, sequence.sampling.logprobs or 0)))
    return found


def _top(logprobs: Mapping[int, float], wanted: int) -> tuple[tuple[int, float], ...]:
    """The likeliest first. vLLM adds the chosen token where it is none of them."""
    return tuple(sorted(logprobs.items(), key=lambda one: -one[1])[:wanted])


def _id(name: str) -> int:
    try:
        return int(name.removeprefix(_TOKEN))
    except ValueError as error:
        raise msgspec.DecodeError(f"{name!r} is no token's id") from error
