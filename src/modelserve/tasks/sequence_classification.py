"""A class, or a value, for a whole text or a pair of texts.

Knows no protocol. `preprocess` runs in a tokenizer thread, `reduce` in the backend thread, the rest on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.tasks.answer import (
    DEFAULT,
    FIELD_BYTES,
    KSERVE,
    OBJECT_BYTES,
    PROBABILITIES,
    Answers,
    at_least_one,
    objects,
    rounded,
)
from modelserve.tasks.base import States, Tokenize
from modelserve.types import Encoding, Instance, ModelInfo, Output, Params, Tensor, TensorSpec

LABELS = "labels"


class SequenceClassification:
    """Class index, probabilities, logits, or label names with scores.

    A model without classes to choose from (a single output, or problem_type regression) answers its values by default.
    """

    name = "sequence_classification"
    head: Literal["sequence"] = "sequence"
    auto_class = "AutoModelForSequenceClassification"

    def __init__(self, config: Config, info: ModelInfo, tokenize: Tokenize) -> None:
        if info.num_labels < 1:
            raise LoadError(f"config.json has {info.num_labels} labels; a sequence classifier needs at least one")
        self.width = info.num_labels
        self._tokenize = tokenize
        self._answers = Answers(self.name, config, {**KSERVE, "return_labels": LABELS, "top_k": LABELS})
        self._numbers = [str(number) for number in range(info.num_labels)]
        self._names = [info.id2label.get(number, f"LABEL_{number}") for number in range(info.num_labels)]
        # As transformers' TextClassificationPipeline chooses.
        self._regression = info.problem_type == "regression"
        self._sigmoid = info.problem_type == "multi_label_classification" or info.num_labels == 1
        self._chooses = info.num_labels > 1 and not self._regression

    def preprocess(self, instances: Sequence[Instance], params: Params) -> list[Encoding]:
        kind = self._answers.kind(params)
        at_least_one(params, "top_k")
        encodings = self._tokenize(instances, params)
        return encodings if kind == DEFAULT else [replace(encoding, want=kind) for encoding in encodings]

    def answer_bytes(self, encodings: Sequence[Encoding], params: Params) -> int:
        kind = self._answers.kind(params)
        if kind == LABELS:
            each = min(params.top_k or 1, self.width) * (OBJECT_BYTES + FIELD_BYTES)
        else:
            each = OBJECT_BYTES + (0 if kind == DEFAULT else self.width * FIELD_BYTES)
        return len(encodings) * each

    def reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        logits = states.sequence_logits().float()
        rows = {want: self._rows(logits, want) for want in {e.want for e in encodings if not e.raw}}
        return [None if e.raw else rows[e.want][i] for i, e in enumerate(encodings)]

    def _rows(self, logits: torch.Tensor, want: str | None) -> list[Any] | np.ndarray[Any, Any]:
        """What that kind of answer needs of every text of the batch, on the host."""
        if want is None and self._chooses:
            return logits.argmax(-1).tolist()
        if want in (PROBABILITIES, LABELS) and not self._regression:
            logits = logits.sigmoid() if self._sigmoid else logits.softmax(-1)
        return logits.cpu().numpy()

    def postprocess(self, output: Output, encoding: Encoding, params: Params) -> Any:
        """A class number or values; {class: number}; {"label", "score"} or the `top_k` best of these."""
        if encoding.want is None:
            if self._chooses:
                return output
            return output.tolist() if len(output) > 1 else output.item()
        if encoding.want != LABELS:
            numbers = rounded(output) if encoding.want == PROBABILITIES else output
            return dict(zip(self._numbers, numbers.tolist(), strict=True))
        # Stable, so that equal scores stay in the order of their classes.
        best = np.argsort(-output, kind="stable")[: params.top_k or 1].tolist()
        ranked = [{"label": self._names[number], "score": output[number].item()} for number in best]
        return ranked[0] if params.top_k is None else ranked

    def predictions(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Any]:
        return values

    def extra_outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        return []

    def outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """INT64 [B], or FP32 [B] or [B, C] of a regression; BYTES [B], with `top_k` [B, k], of JSON objects."""
        if self._answers.kind(params) == DEFAULT:
            array = np.asarray(values, dtype=np.int64 if self._chooses else np.float32)
            return [Tensor("output-0", "INT64" if self._chooses else "FP32", array.shape, array)]
        if params.top_k is None:
            return [Tensor("output-0", "BYTES", (len(values),), objects(values))]
        flat = [one for ranked in values for one in ranked]
        return [Tensor("output-0", "BYTES", (len(values), len(flat) // len(values)), objects(flat))]

    def output_specs(self) -> list[TensorSpec]:
        if self._answers.default != DEFAULT:
            return [TensorSpec("output-0", "BYTES", (-1,))]
        if self._chooses:
            return [TensorSpec("output-0", "INT64", (-1,))]
        return [TensorSpec("output-0", "FP32", (-1,) if len(self._names) == 1 else (-1, len(self._names)))]
