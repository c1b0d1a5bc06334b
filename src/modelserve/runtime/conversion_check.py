"""Whether a conversion writes what transformers writes: its logits behind the same tokens, in the engine's own steps.

transformers writes greedily, one text at a time; the conversion is led along the same tokens, all texts together, read
in pieces and then token by token, as a crowd of callers would have it. Where it would have chosen another token than
transformers, and it was no near-tie, the texts of both would part there. Blocking; holds one model at a time.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from modelserve.backends.decoder import Piece
from modelserve.backends.openvino import OpenVinoDecoder
from modelserve.backends.slots import Slot
from modelserve.errors import LoadError
from modelserve.runtime.conversions import Deviation
from modelserve.runtime.greedy import NEW, TEXTS, Answer

TIE = 1e-3
"""Between the logits of the two likeliest: rounding decides then."""
PIECE = 256
"""Tokens of a prompt that are read at once; the first piece is shorter."""

_RANDOM = (1, 3, 33, 64, 97)
"""Lengths of further prompts, of random tokens: about the size of a block, and odd ones."""


def prompts(tokenize: Callable[[str], list[int]], rows: int, config: dict[str, Any], context: int) -> list[list[int]]:
    """Texts, and random tokens of `rows`, one more of them than a window of attention has where there is one."""
    rng = random.Random(0)
    longest = max(1, context - NEW)
    lengths = [*_RANDOM]
    window = config.get("sliding_window")
    if isinstance(window, int) and config.get("use_sliding_window", True) and window < longest:
        lengths.append(min(longest, window + 40))
    texts = [tokenize(text) for text in TEXTS]
    texts += [[rng.randrange(rows) for _ in range(length)] for length in lengths]
    return [ids[:longest] for ids in texts if ids]


def deviation(directory: Path, known: Sequence[Answer], dtype: str, threads: int) -> Deviation:
    """How far a conversion that computes in `dtype` is from these answers. Raises LoadError."""
    decoder = OpenVinoDecoder(directory, dtype=dtype, threads=threads)
    try:
        made = _follow(decoder, known)
    finally:
        decoder.close()
    same = ties = tokens = 0
    total, largest = 0.0, 0.0
    for answer, logits in zip(known, made, strict=True):
        columns = min(logits.shape[1], answer.logits.shape[1])
        theirs, ours = answer.logits[:, :columns], logits[:, :columns]
        off = (ours - theirs).abs()
        if not torch.isfinite(off).all():
            raise LoadError(f"the conversion's logits are not finite in {dtype}")
        top = theirs.topk(2).values
        tie = (top[:, 0] - top[:, 1]) < TIE
        equal = (ours.argmax(-1) == theirs.argmax(-1)) | tie
        tokens, same, ties = tokens + len(equal), same + int(equal.sum()), ties + int(tie.sum())
        total, largest = total + float(off.mean()) * len(equal), max(largest, float(off.max()))
    return Deviation(tokens, same / tokens, ties, total / tokens, largest)


def _follow(decoder: OpenVinoDecoder, known: Sequence[Answer]) -> list[torch.Tensor]:
    """The logits by which the decoder would choose each token of the answers; all of them run together."""
    texts = [answer.prompt + answer.new[:-1] for answer in known]
    longest = max(map(len, texts))
    decoder.allot(longest * len(texts), context=longest, sequences=len(texts))
    places: list[Slot] = [decoder.slots.take() for _ in texts]
    done = [0] * len(texts)
    parts: list[list[torch.Tensor]] = [[] for _ in texts]
    while left := [i for i, text in enumerate(texts) if done[i] < len(text)]:
        pieces = []
        for i in left:
            read = len(known[i].prompt) - done[i]
            n = 1 if read <= 0 else min(read, PIECE if done[i] else 1 + i % 7)
            pieces.append(Piece(places[i], done[i], texts[i][done[i] : done[i] + n], int(read <= n)))
            done[i] += n
        logits = decoder.step(pieces)
        kept = [i for i, piece in zip(left, pieces, strict=True) if piece.keep]
        for i, row in zip(kept, logits.float(), strict=True):
            parts[i].append(row.clone())  # the next step writes over it
    return [torch.stack(part) for part in parts]
