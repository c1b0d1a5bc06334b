"""The words for the masks of a text.

Knows no protocol. `preprocess` runs in a tokenizer thread, `reduce` in the backend thread (the vocabulary stays on the
device unless it is asked for), the rest on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.answer import (
    DEFAULT,
    FIELD_BYTES,
    KSERVE,
    NUMBER_BYTES,
    OBJECT_BYTES,
    PROBABILITIES,
    Answers,
    at_least_one,
    objects,
    refuse_pairs,
)
from modelserve.tasks.base import States, Tokenize
from modelserve.types import Encoding, Instance, ModelInfo, Output, Params, Tensor, TensorSpec

RANKED = "ranked"
TOP_K = 5
"""Candidates per mask when only `targets` is given, as transformers' FillMaskPipeline."""
_TOKEN_BYTES = 16
"""Of a candidate's text, per token."""
_PIECE_NUMBERS = 2**24
"""Logits to hold at a time, 64 MiB: a batch of nothing but masks has a gigabyte of them with XLM-R's vocabulary."""


class _Best(NamedTuple):
    """The candidates that a request wants of each mask: `most` of them, among `targets` (token ids) where given."""

    most: int
    targets: tuple[int, ...]


class FillMask:
    """The likeliest word, the whole vocabulary's probabilities or logits, or the best candidates."""

    name = "fill_mask"
    head: Literal["token"] = "token"
    auto_class = "AutoModelForMaskedLM"

    def __init__(self, config: Config, info: ModelInfo, tokenize: Tokenize) -> None:
        if tokenize.mask_token is None or tokenize.mask_token_id is None:
            raise LoadError("the model's tokenizer has no mask token, which fill_mask needs")
        self._tokenize = tokenize
        self._mask, self._mask_id = tokenize.mask_token, tokenize.mask_token_id
        self.width: int = info.config.get("vocab_size", tokenize.vocab_size)
        self._answers = Answers(self.name, config, {**KSERVE, "top_k": RANKED, "targets": RANKED})

    def preprocess(self, instances: Sequence[Instance], params: Params) -> list[Encoding]:
        refuse_pairs(self.name, instances)
        want: Any = self._answers.kind(params)
        if want == DEFAULT:
            want = None
        elif want == RANKED:
            want = self._best(params)
        encodings = self._tokenize(instances, params)
        return [replace(e, select=self._masks(i, e), want=want) for i, e in enumerate(encodings)]

    def _masks(self, index: int, encoding: Encoding) -> list[int]:
        positions = [i for i, id in enumerate(encoding.ids) if id == self._mask_id]
        if not positions:
            cut = " among the tokens that truncation left" if encoding.dropped else ""
            raise InvalidRequest(
                f"input {index} has no mask token{cut}; write {self._mask} where a word is to be found"
            )
        return positions

    def _best(self, params: Params) -> _Best:
        at_least_one(params, "top_k")
        count = min(params.top_k or TOP_K, self.width)
        if params.targets is None:
            return _Best(count, ())
        if len(params.targets) > self.width:
            raise InvalidRequest(
                f"there are {len(params.targets)} targets, the vocabulary has {self.width} words", param="targets"
            )
        # A target that is no token stands for its first token, as in transformers' pipeline.
        found = {self._target(target) for target in params.targets} - {None}
        ids = tuple(sorted(id for id in found if id is not None and id < self.width))
        if not ids:
            raise InvalidRequest(f"none of the targets {params.targets} has a token in the vocabulary", param="targets")
        return _Best(min(count, len(ids)), ids)

    def _target(self, text: str) -> int | None:
        id = self._tokenize.vocabulary_id(text)
        return id if id is not None else next(iter(self._tokenize.ids(text)), None)

    def answer_bytes(self, encodings: Sequence[Encoding], params: Params) -> int:
        masks = [len(encoding.select or ()) for encoding in encodings]
        want = encodings[0].want
        if want is None:
            return sum(masks) * NUMBER_BYTES
        if isinstance(want, _Best):
            longest = max(len(encoding) for encoding in encodings)  # each candidate repeats the text
            width, each = want.most, OBJECT_BYTES + 3 * FIELD_BYTES + longest * _TOKEN_BYTES
        else:
            width, each = self.width, OBJECT_BYTES
        filled_up = len(masks) * max(masks) - sum(masks)
        return width * (sum(masks) * each + filled_up * NUMBER_BYTES)

    def reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        wanted: dict[Any, tuple[list[int], list[int]]] = {}  # texts, and the rows of their masks
        first = 0
        for index, (length, encoding) in enumerate(zip(states.lengths, encodings, strict=True)):
            if not encoding.raw:
                texts, rows = wanted.setdefault(encoding.want, ([], []))
                texts.append(index)
                rows.extend([first + position for position in encoding.select or ()])
            first += length
        outputs: list[Output] = [None] * len(encodings)
        for want, (texts, rows) in wanted.items():
            array = self._reduced(states, rows, want)
            start = 0
            for index in texts:
                stop = start + len(encodings[index].select or ())
                outputs[index] = array[start:stop]
                start = stop
        return outputs

    def _reduced(self, states: States, rows: list[int], want: Any) -> np.ndarray[Any, Any]:
        size = max(1, _PIECE_NUMBERS // self.width)
        pieces = [torch.tensor(rows[start : start + size]) for start in range(0, len(rows), size)]
        return np.concatenate([_rows(states.token_logits(piece).float(), want).cpu().numpy() for piece in pieces])

    def postprocess(self, output: Output, encoding: Encoding, params: Params) -> Any:
        """One string for all masks; per mask {token id: number} for each token of the vocabulary; or candidates.

        Candidates are dicts with score, token, token_str and sequence, in a list per mask, or in one list when the
        text has a single mask.
        """
        if encoding.want is None:
            return self._tokenize.decode(output.tolist())
        if isinstance(encoding.want, _Best):
            rows = [self._candidates(mask, best, encoding) for mask, best in enumerate(output.tolist())]
            return rows[0] if len(rows) == 1 else rows
        if encoding.want == PROBABILITIES:
            places = _four_places()
            numbers = np.rint(output.astype(np.float64) * 10_000).astype(np.int64).tolist()
            rows = [[places[n] for n in row] for row in numbers]
        else:
            rows = output.tolist()
        keys = _keys(output.shape[1])
        return [[{key: number} for key, number in zip(keys, row, strict=True)] for row in rows]

    def _candidates(self, mask: int, best: list[list[float]], encoding: Encoding) -> list[dict[str, Any]]:
        masks = encoding.select or []
        candidates = []
        for score, number in best:
            token = int(number)
            ids = list(encoding.ids)
            ids[masks[mask]] = token
            ids = [id for id in ids if id != self._tokenize.pad_token_id]
            candidates.append(
                {
                    "score": score,
                    "token": token,
                    "token_str": self._tokenize.decode([token]),
                    # Other masks are special tokens and stay readable.
                    "sequence": self._tokenize.decode(ids, skip_special=len(masks) == 1),
                }
            )
        return candidates

    def predictions(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Any]:
        return values

    def extra_outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        return []

    def outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """BYTES: [B] words, or JSON objects [B, masks, vocabulary] or [B, masks, candidates].

        Texts with fewer masks than others of the request are filled up with empty elements.
        """
        kind = self._answers.kind(params)
        if kind == DEFAULT:
            return [Tensor("output-0", "BYTES", (len(values),), [word.encode() for word in values])]
        masks = [len(encoding.select or ()) for encoding in encodings]
        rows = [[v] if kind == RANKED and n == 1 else v for v, n in zip(values, masks, strict=True)]
        longest, width = max(masks), len(rows[0][0])
        flat: list[bytes] = []
        for row in rows:
            for mask in row:
                flat.extend(objects(mask))
            flat.extend([b""] * ((longest - len(row)) * width))
        return [Tensor("output-0", "BYTES", (len(rows), longest, width), flat)]

    def output_specs(self) -> list[TensorSpec]:
        shape = (-1,) if self._answers.default == DEFAULT else (-1, -1, self.width)
        return [TensorSpec("output-0", "BYTES", shape)]


def _rows(logits: torch.Tensor, want: Any) -> torch.Tensor:
    """What that answer needs of each mask: [M] token ids, [M, V] numbers, or [M, k, 2] scores and token ids."""
    if want is None:
        return logits.argmax(-1)
    if isinstance(want, _Best):
        scores = logits.softmax(-1)
        targets = torch.tensor(want.targets, device=logits.device)
        best, ids = (scores[:, targets] if want.targets else scores).topk(want.most)
        # float64 holds both a float32 score and a token id exactly.
        return torch.stack([best.double(), (targets[ids] if want.targets else ids).double()], -1)
    return logits.softmax(-1) if want == PROBABILITIES else logits


@cache
def _keys(count: int) -> list[str]:
    return [str(number) for number in range(count)]


@cache
def _four_places() -> list[str]:
    """The string of every probability, as KServe writes them: a table, since formatting 30,522 numbers is slow."""
    return [f"{number / 10_000:.4f}" for number in range(10_001)]
