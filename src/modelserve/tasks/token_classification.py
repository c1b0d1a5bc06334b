"""A class for every token of a text, or the entities that the tokens make.

Knows no protocol. `preprocess` runs in a tokenizer thread, `reduce` in the backend thread, the rest on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import msgspec
import numpy as np
import torch

from modelserve.config import Config
from modelserve.errors import InvalidRequest
from modelserve.tasks.answer import (
    DEFAULT,
    FIELD_BYTES,
    KSERVE,
    LOGITS,
    NUMBER_BYTES,
    OBJECT_BYTES,
    PROBABILITIES,
    Answers,
    objects,
    refuse_pairs,
    rounded,
)
from modelserve.tasks.base import States, Tokenize
from modelserve.tasks.entities import entities
from modelserve.types import Encoding, Instance, ModelInfo, Output, Params, Tensor, TensorSpec, TokenIds

LABELS = "labels"
ENTITIES = "entities"
PADDING = -100
"""V2's class behind a shorter text's end: what PyTorch's losses ignore."""


class TokenClassification:
    """Class numbers, names, probabilities or logits per token, special tokens included; or named entities."""

    name = "token_classification"
    head: Literal["token"] = "token"
    auto_class = "AutoModelForTokenClassification"

    def __init__(self, config: Config, info: ModelInfo, tokenize: Tokenize) -> None:
        self.width = info.num_labels
        self._tokenize = tokenize
        self._answers = Answers(
            self.name,
            config,
            {**KSERVE, "return_labels": LABELS, "aggregation_strategy": ENTITIES},
            also=["return_offsets_mapping"],
        )
        self._offsets = config.return_offsets_mapping
        self._numbers = [str(number) for number in range(info.num_labels)]
        self._names = [info.id2label.get(number, f"LABEL_{number}") for number in range(info.num_labels)]

    def _kind(self, params: Params) -> str:
        if params.aggregation_strategy is not None and params.return_labels:
            params = msgspec.structs.replace(params, return_labels=None)  # entities carry their labels anyway
        return self._answers.kind(params)

    def _wants_offsets(self, params: Params) -> bool:
        return self._offsets if params.return_offsets_mapping is None else params.return_offsets_mapping

    def preprocess(self, instances: Sequence[Instance], params: Params) -> list[Encoding]:
        refuse_pairs(self.name, instances)
        kind = self._kind(params)
        offsets = kind == ENTITIES or self._wants_offsets(params)
        if offsets and any(isinstance(instance, TokenIds) for instance in instances):
            what = "aggregation_strategy" if kind == ENTITIES else "return_offsets_mapping"
            raise InvalidRequest(f"{what} counts characters; send texts, not token ids", param=what)
        encodings = self._tokenize(instances, params, offsets=offsets)
        # A label is a name for a class: the device has no part in it.
        return encodings if kind in (DEFAULT, LABELS) else [replace(encoding, want=kind) for encoding in encodings]

    def answer_bytes(self, encodings: Sequence[Encoding], params: Params) -> int:
        lengths = [len(encoding) for encoding in encodings]
        padded, kind = len(lengths) * max(lengths), self._kind(params)
        if kind in (DEFAULT, LABELS):
            each = 0
        elif kind == ENTITIES:
            each = OBJECT_BYTES + FIELD_BYTES  # an entity has more fields, and most tokens are none
        else:
            each = OBJECT_BYTES + self.width * FIELD_BYTES
        return sum(lengths) * each + padded * NUMBER_BYTES * (3 if self._wants_offsets(params) else 1)

    def reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        logits = states.token_logits().float()
        rows = {want: _rows(logits, want).cpu().numpy() for want in {e.want for e in encodings if not e.raw}}
        outputs: list[Output] = []
        start = 0
        for length, encoding in zip(states.lengths, encodings, strict=True):
            outputs.append(None if encoding.raw else rows[encoding.want][start : start + length])
            start += length
        return outputs

    def postprocess(self, output: Output, encoding: Encoding, params: Params) -> Any:
        """Per token a class number, a name or {class: number}; or the text's entities."""
        if encoding.want is None:
            numbers = output.tolist()
            return [self._names[number] for number in numbers] if params.return_labels else numbers
        if encoding.want == ENTITIES:
            strategy = params.aggregation_strategy or "none"
            return entities(output, encoding, self._names, strategy, self._tokenize)
        rows = rounded(output) if encoding.want == PROBABILITIES else output
        return [dict(zip(self._numbers, row, strict=True)) for row in rows.tolist()]

    def predictions(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Any]:
        """As KServe nests them: class numbers (and names) one level deeper than the others."""
        return [[value] for value in values] if self._kind(params) in (DEFAULT, LABELS) else values

    def extra_outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """`offset_mapping`, INT64 [B, L, 2]: characters (start, end) per token; 0, 0 for special tokens and behind a
        shorter text's end."""
        if not self._wants_offsets(params):
            return []
        array = np.zeros((len(encodings), max(len(e) for e in encodings), 2), dtype=np.int64)
        for row, encoding in zip(array, encodings, strict=True):
            row[: len(encoding)] = encoding.offsets or ()
        return [Tensor("offset_mapping", "INT64", array.shape, array)]

    def outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """INT64 [B, 1, L] filled up with -100; names BYTES [B, 1, L]; JSON objects BYTES [B, L] per token or [B, E] per
        entity. BYTES are filled up with empty elements."""
        return [self._output(values, self._kind(params)), *self.extra_outputs(values, encodings, params)]

    def _output(self, values: list[Any], kind: str) -> Tensor:
        longest = max(len(value) for value in values)
        if kind == DEFAULT:
            array = np.full((len(values), 1, longest), PADDING, dtype=np.int64)
            for row, value in zip(array, values, strict=True):
                row[0, : len(value)] = value
            return Tensor("output-0", "INT64", array.shape, array)
        flat: list[bytes] = []
        for value in values:
            flat.extend([name.encode() for name in value] if kind == LABELS else objects(value))
            flat.extend([b""] * (longest - len(value)))
        shape = (len(values), 1, longest) if kind == LABELS else (len(values), longest)
        return Tensor("output-0", "BYTES", shape, flat)

    def output_specs(self) -> list[TensorSpec]:
        if self._answers.default == DEFAULT:
            specs = [TensorSpec("output-0", "INT64", (-1, 1, -1))]
        else:
            specs = [TensorSpec("output-0", "BYTES", (-1, -1))]
        return [*specs, TensorSpec("offset_mapping", "INT64", (-1, -1, 2))] if self._offsets else specs


def _rows(logits: torch.Tensor, want: str | None) -> torch.Tensor:
    """What that kind of answer needs of every token of the batch: [T] classes, or [T, C] numbers."""
    if want is None:
        return logits.argmax(-1)
    return logits if want == LOGITS else logits.softmax(-1)
