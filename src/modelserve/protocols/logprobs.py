"""Log probabilities in the two shapes of OpenAI's API: the lists of completions, the objects of chat.

Pure functions. What JSON has no number for is null (the first token of a prompt has no probability) or -9999, which is
OpenAI's own stand-in for minus infinity.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import msgspec

from modelserve.generation import WrittenToken

TOKEN_BYTES = 200
"""Of an answer for each token with its logprobs, about."""
_IMPOSSIBLE = -9999.0


class TextLogprobs(msgspec.Struct):
    """Of completions; each list has a value for every token.

    top_logprobs: the likeliest and the chosen one, by their texts. text_offset: characters of the text before it.
    """

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class LikelyToken(msgspec.Struct):
    token: str
    logprob: float
    bytes: list[int]


class ChosenToken(LikelyToken):
    """bytes: of its UTF-8, where the token itself is no whole character."""

    top_logprobs: list[LikelyToken]


class ChatLogprobs(msgspec.Struct):
    content: list[ChosenToken]
    refusal: None = None


def text_logprobs(tokens: Sequence[WrittenToken]) -> TextLogprobs:
    return TextLogprobs(
        [token.text for token in tokens],
        [None if math.isnan(token.logprob) else _finite(token.logprob) for token in tokens],
        [None if math.isnan(token.logprob) else _top(token) for token in tokens],
        [token.offset for token in tokens],
    )


def _top(token: WrittenToken) -> dict[str, float]:
    """The likeliest first. Of two tokens with the same text the likelier one counts, and before both the chosen one."""
    likely: dict[str, float] = {}
    for text, _, logprob in token.top:
        likely.setdefault(text, _finite(logprob))
    likely[token.text] = _finite(token.logprob)
    return likely


def chat_logprobs(tokens: Iterable[WrittenToken]) -> ChatLogprobs:
    return ChatLogprobs(
        [
            ChosenToken(
                token.text,
                _finite(token.logprob),
                list(token.raw),
                [LikelyToken(text, _finite(logprob), list(raw)) for text, raw, logprob in token.top],
            )
            for token in tokens
        ]
    )


def _finite(logprob: float) -> float:
    return max(logprob, _IMPOSSIBLE)
