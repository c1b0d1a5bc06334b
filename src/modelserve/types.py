"""The values on the request path, in the order in which a request meets them.

InferRequest -> Encoding -> Entry (runtime/batcher.py) -> Batch -> Output -> Prediction -> InferResponse.
Knows no protocol, no task and no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

Aggregation = Literal["none", "simple", "first", "average", "max"]
Truncation = Literal[True, False, "left"]


class TextPair(NamedTuple):
    """Two texts read together, for cross-encoders."""

    text: str
    text_pair: str


class TokenIds(NamedTuple):
    """One input that is tokenised already: special tokens included, padding not."""

    ids: list[int]
    type_ids: list[int] | None = None


Instance = str | TextPair | TokenIds


class Params(msgspec.Struct, frozen=True, kw_only=True):
    """Request parameters, V1's and V2's `parameters`. None means: what the server was started with.

    Decode with `msgspec.convert(mapping, Params, strict=False)`; keys that are not here are ignored, as KServe does.
    A value that is here but means nothing to the task is InvalidRequest (see tasks/base.py).
    """

    return_probabilities: bool | None = None
    return_raw_logits: bool | None = None
    return_offsets_mapping: bool | None = None
    return_labels: bool | None = None
    top_k: int | None = None
    targets: list[str] | None = None
    aggregation_strategy: Aggregation | None = None
    truncation: bool | Literal["left", "right"] | None = None
    prompt_name: str | None = None
    normalize: bool | None = None
    dimensions: int | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a protocol understood of the bytes."""

    model_name: str
    instances: list[Instance]
    params: Params = Params()
    id: str = ""
    api: str = ""
    """Which API it came over: v1, v2, grpc, openai (a metric label)."""
    form: Literal["json", "tensors"] = "json"
    """What the answer is wanted as: JSON values (V1, OpenAI) or named tensors (V2, gRPC)."""
    raw: bool = False
    """V2 with input_ids: the network's own logits or last_hidden_state, not the task's prediction."""
    raw_length: int = 0
    """With raw: columns of the input_ids that came, padding included; the answer has as many."""


@dataclass(frozen=True, slots=True, eq=False)
class Encoding:
    """One input, tokenised and valid: short enough, and with what its task needs (a mask, say).

    ids: token ids, special tokens included, never padded. type_ids: same length, or None when the model takes none.
    select: positions (in ids) whose outputs the task needs, None for all. want: the task's own note on what
    `reduce` shall keep for this input (plain hashable data). raw: wanted as the network gives it (V2 with input_ids);
    a task's `reduce` gives None for it. offsets: character (start, end) per token, special
    tokens (0, 0); word_ids: word number per token, None for special tokens; both only where the task asked for them.
    """

    ids: list[int]
    type_ids: list[int] | None = None
    select: list[int] | None = None
    want: Any = None
    raw: bool = False
    offsets: list[tuple[int, int]] | None = None
    word_ids: list[int | None] | None = None
    special: list[int] | None = None
    """1 for a special token, as tokenizers gives it."""
    text: str = ""
    dropped: int = 0
    """Tokens cut off by truncation."""

    def __len__(self) -> int:
        return len(self.ids)


Output = Any
"""One reduced row, on the host: what a task's `reduce` kept of one input (numpy, or a tuple of numpy)."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor of V2, on the host.

    datatype is V2's name (FP32, INT64, BYTES, …). data: a numpy array of that type in the given shape; for BYTES a
    flat list of bytes, row-major.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: np.ndarray[Any, Any] | list[bytes]


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A tensor of the model's metadata; -1 is a variable dimension."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What is known of a model from its directory, before and besides its weights. Tasks are built from it."""

    path: Path
    """The local directory (a snapshot of the hub's cache, or --model_dir)."""
    config: dict[str, Any]
    """config.json."""
    id2label: dict[int, str]
    num_labels: int
    problem_type: str | None
    """single_label_classification, multi_label_classification, regression or None, as in config.json."""
    hidden_size: int
    max_length: int
    """Most tokens of one input, special tokens included."""
    lower_case: bool = False
    """Texts are lower-cased before the tokenizer sees them (sentence-transformers' do_lower_case)."""
    sentence_transformers: dict[str, Any] = field(default_factory=dict)
    """config_sentence_transformers.json; empty where there is none."""
    revision: str = ""


@dataclass(slots=True)
class Timings:
    """Seconds, filled along the path; read by metrics and the request log."""

    tokenization_s: float = 0.0
    queue_s: float = 0.0
    inference_s: float = 0.0
    postprocess_s: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class InferResponse:
    """The answer, protocol-neutral.

    predictions: form "json", one JSON-able value per instance (numpy arrays allowed: encode with `.tolist()`).
    outputs: form "tensors", the V2 outputs; in form "json" the extra tensors beside the predictions
    (`offset_mapping`), usually none.
    """

    model_name: str
    id: str
    predictions: list[Any] = field(default_factory=list)
    outputs: list[Tensor] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Tokens per instance, special tokens included, after truncation."""
    tokens_dropped: int = 0
    timings: Timings = field(default_factory=Timings)
