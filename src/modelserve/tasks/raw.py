"""The network's own answer, for V2 requests that bring token ids: `logits` (or a bare encoder's `last_hidden_state`).

Shared by all tasks: what a remote predictor answers. Runs where a task's verbs run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from modelserve.errors import InvalidRequest
from modelserve.tasks.answer import NUMBER_BYTES
from modelserve.tasks.base import States, Task, Tokenize
from modelserve.types import Encoding, Instance, ModelInfo, Output, Params, Tensor, TensorSpec, TokenIds

Array = np.ndarray[Any, Any]


def preprocess(instances: Sequence[Instance], tokenize: Tokenize) -> list[Encoding]:
    """Ids as they came, never cut: whoever sends tensors has tokenised them for this model."""
    if not all(isinstance(instance, TokenIds) for instance in instances):
        raise InvalidRequest("raw tensors are answered for input_ids only, not for texts")
    return [replace(e, raw=True) for e in tokenize(instances, Params(truncation=False))]


def answer_bytes(task: Task, encodings: Sequence[Encoding], length: int) -> int:
    """Memory that the answer takes, about; a row of few tokens is filled up to the longest, or to `length`."""
    columns = 1 if task.head == "sequence" else max(length, max(len(encoding) for encoding in encodings))
    return len(encodings) * columns * task.width * NUMBER_BYTES


def reduce(task: Task, states: States, encodings: Sequence[Encoding]) -> list[Output]:
    """float32 rows per raw encoding: [L, C] of a token head, [C] of a sequence head, [L, H] without one."""
    rows: list[Output] = [None] * len(encodings)
    if task.head == "sequence":
        logits: Array = states.sequence_logits().float().cpu().numpy()
        return [logits[i] if e.raw else None for i, e in enumerate(encodings)]
    answer: Array = (states.hidden if task.head == "none" else states.token_logits()).float().cpu().numpy()
    start = 0
    for i, length in enumerate(states.lengths):
        if encodings[i].raw:
            rows[i] = answer[start : start + length].copy()
        start += length
    return rows


def outputs(task: Task, values: Sequence[Array], length: int) -> list[Tensor]:
    """One FP32 tensor: [B, C], or [B, L, C] with zeros behind each text's end."""
    name = "last_hidden_state" if task.head == "none" else "logits"
    if task.head == "sequence":
        stacked = np.stack(values)
    else:
        longest = max(length, max(len(value) for value in values))
        stacked = np.zeros((len(values), longest, values[0].shape[1]), dtype=np.float32)
        for row, value in zip(stacked, values, strict=True):
            row[: len(value)] = value
    return [Tensor(name, "FP32", stacked.shape, stacked)]


def spec(task: Task, info: ModelInfo) -> TensorSpec:
    """What V2's metadata says of that answer."""
    if task.head == "none":
        return TensorSpec("last_hidden_state", "FP32", (-1, -1, info.hidden_size))
    return TensorSpec("logits", "FP32", (-1, info.num_labels) if task.head == "sequence" else (-1, -1, -1))
