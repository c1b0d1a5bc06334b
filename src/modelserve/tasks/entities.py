"""Scores per token -> named entities, as transformers' TokenClassificationPipeline groups them.

Pure functions of one text's tokens and scores, on the host. Every rule here is that pipeline's (transformers 5), also
where another would be nicer: equality on the same weights is the point, and a test holds both side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from modelserve.tasks.base import Tokenize
from modelserve.types import Aggregation, Encoding

Array = np.ndarray[Any, Any]

OUTSIDE = "O"
"""The label of what is no entity; left out of the answer."""


@dataclass(frozen=True, slots=True)
class _Token:
    word: str
    scores: Array
    start: int
    end: int
    index: int
    continues: bool
    """It belongs to the word of the token before."""


@dataclass(frozen=True, slots=True)
class _Tagged:
    """A token or a word with its label."""

    label: str
    score: Any
    word: str
    start: int
    end: int
    index: int


def entities(
    scores: Array, encoding: Encoding, names: Sequence[str], strategy: Aggregation, tokenize: Tokenize
) -> list[dict[str, Any]]:
    """The entities of one text, in order.

    scores: float32 [L, C], probabilities per token, special tokens included. `none` gives entity, score, index, word,
    start and end per token; the other strategies entity_group, score, word, start and end per entity. start and end
    count characters of the text.
    """
    tokens = _tokens(scores, encoding, tokenize)
    if strategy in ("none", "simple"):
        tagged = [_tag(token.scores, names, token.word, token, token) for token in tokens]
    else:
        tagged = [_word(word, names, strategy, tokenize) for word in _words(tokens)]
    if strategy == "none":
        return [
            {
                "entity": one.label,
                "score": float(one.score),
                "index": one.index,
                "word": one.word,
                "start": one.start,
                "end": one.end,
            }
            for one in tagged
            if one.label != OUTSIDE
        ]
    return [_entity(group, tokenize) for group in _groups(tagged) if _kind(group[0].label) != OUTSIDE]


def _tokens(scores: Array, encoding: Encoding, tokenize: Tokenize) -> list[_Token]:
    offsets, special, text = encoding.offsets or [], encoding.special or [], encoding.text
    tokens = []
    for index, (id, (start, end)) in enumerate(zip(encoding.ids, offsets, strict=True)):
        if special[index]:
            continue
        word, covered = tokenize.token(id), text[start:end]
        if id == tokenize.unknown_token_id:
            word, continues = covered, False
        elif tokenize.marks_subwords:
            continues = len(word) != len(covered)
        else:
            # No mark says where words begin: what follows no blank continues the word.
            continues = start > 0 and " " not in text[start - 1 : start + 1]
        tokens.append(_Token(word, scores[index], start, end, index, continues))
    return tokens


def _words(tokens: Sequence[_Token]) -> list[list[_Token]]:
    words: list[list[_Token]] = []
    for token in tokens:
        if words and token.continues:
            words[-1].append(token)
        else:
            words.append([token])
    return words


def _word(tokens: list[_Token], names: Sequence[str], strategy: Aggregation, tokenize: Tokenize) -> _Tagged:
    if strategy == "average":
        scores = np.nanmean(np.stack([token.scores for token in tokens]), axis=0)
    elif strategy == "max":
        scores = max(tokens, key=lambda token: token.scores.max()).scores
    else:
        scores = tokens[0].scores
    return _tag(scores, names, tokenize.join([token.word for token in tokens]), tokens[0], tokens[-1])


def _tag(scores: Array, names: Sequence[str], word: str, first: _Token, last: _Token) -> _Tagged:
    number = int(scores.argmax())
    return _Tagged(names[number], scores[number], word, first.start, last.end, first.index)


def _groups(tagged: Sequence[_Tagged]) -> list[list[_Tagged]]:
    """Neighbours of one kind; a label that begins with B- starts a new group."""
    groups: list[list[_Tagged]] = []
    for one in tagged:
        if groups and not one.label.startswith("B-") and _bare(one.label) == _bare(groups[-1][-1].label):
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def _bare(label: str) -> str:
    return label[2:] if label.startswith(("B-", "I-")) else label


def _kind(label: str) -> str:
    """The name of a group: what follows the first hyphen, whatever stands before it."""
    return label.split("-", 1)[-1]


def _entity(group: Sequence[_Tagged], tokenize: Tokenize) -> dict[str, Any]:
    return {
        "entity_group": _kind(group[0].label),
        "score": float(np.nanmean([one.score for one in group])),
        "word": tokenize.join([one.word for one in group]),
        "start": group[0].start,
        "end": group[-1].end,
    }
