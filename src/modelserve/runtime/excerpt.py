"""Which part of a very long text a model reads, found piece by piece.

The tokenizer takes 200 to 400 bytes of memory for each character that it is given at once; 32 MB of text would be the
end of most processes. Pure functions; know no tokenizer and no request.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from modelserve.types import Instance

PIECE = 500_000
"""Characters to tokenise at once."""


def excerpt(text: str, count: Callable[[str], int], enough: int, *, from_end: bool) -> tuple[str, int]:
    """The beginning (or end) of the text with more than `enough` tokens, and how many tokens the rest has.

    All of a text that is one piece, or has no more tokens than that. `count`: tokens of a piece, special ones not
    counted. Pieces are cut before a blank, across which no tokenizer joins; text without any is cut anywhere, and
    counted a token or two wrong.
    """
    if len(text) <= PIECE:
        return text, 0
    pieces = list(_pieces(text))
    kept = tokens = rest = 0
    for piece in reversed(pieces) if from_end else pieces:
        found = count(piece)
        if tokens <= enough:
            kept += len(piece)
            tokens += found
        else:
            rest += found
    return (text[-kept:] if from_end else text[:kept]), rest


def characters(instance: Instance) -> int:
    """Characters of a text or of a pair; of token ids, how many numbers there are."""
    return len(instance) if isinstance(instance, str) else sum(len(part or ()) for part in instance)


def groups(sizes: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(start, stop) of neighbours that are one piece together; a longer text is alone."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > PIECE:
            yield start, index
            start, total = index, 0
        total += size
    yield start, len(sizes)


def _pieces(text: str) -> Iterator[str]:
    start = 0
    while start < len(text):
        end = start + PIECE
        if end < len(text):
            blank = max(text.rfind(" ", start + 1, end), text.rfind("\n", start + 1, end))
            end = blank if blank > 0 else end
        yield text[start:end]
        start = end
