"""The values on the request path, in the order in which a request meets them.

InferRequest -> Encoding or Rows -> Entry (runtime/batcher.py) -> Batch -> Output -> Prediction -> InferResponse.
Knows no protocol, no task and no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import msgspec
import numpy as np

Array = np.ndarray[Any, Any]
Aggregation = Literal["none", "simple", "first", "average", "max"]
Truncation = Literal[True, False, "left"]
Takes = Literal["texts", "rows"]
"""What a model reads: texts that are tokenised, or rows of features."""


class TextPair(NamedTuple):
    """Two texts read together, for cross-encoders."""

    text: str
    text_pair: str


class TokenIds(NamedTuple):
    """One input that is tokenised already: special tokens included, padding not."""

    ids: list[int]
    type_ids: list[int] | None = None


Instance = str | TextPair | TokenIds


class Caller(NamedTuple):
    """Whose request it is, for whoever is asked further: x-request-id, and W3C's trace context where there is one."""

    request_id: str = ""
    traceparent: str = ""
    tracestate: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """All rows of a request, for a model of features: what arrived, and after the task's `preprocess` a piece of work.

    values: one array [N, …] of numbers or of objects (a text among them), or such an array for each column by name.
    """

    values: Array | dict[str, Array]
    want: tuple[str, ...] = ()
    """What the model is asked: names of its methods, each of which is an output."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """The model's own parameters (MLflow's `params`)."""

    def __len__(self) -> int:
        one = self.values if isinstance(self.values, np.ndarray) else next(iter(self.values.values()))
        return len(one)

    def __iter__(self) -> Iterator[Any]:
        """Row by row, for the log."""
        if isinstance(self.values, np.ndarray):
            yield from self.values.tolist()
        else:
            for row in zip(*(column.tolist() for column in self.values.values()), strict=True):
                yield dict(zip(self.values, row, strict=True))


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
    max_tokens: int | None = None
    max_new_tokens: int | None = None
    min_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    repetition_penalty: float | None = None


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What a protocol understood of the bytes."""

    model_name: str
    instances: list[Instance] | Rows
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
    wanted: tuple[str, ...] = ()
    """Outputs that V2 asks for by name; none for what the model answers by itself."""
    caller: Caller = Caller()


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
    caller: Caller | None = None
    """Where a backend asks somebody else; None where none does."""

    def __len__(self) -> int:
        return len(self.ids)


Work = Encoding | Rows
"""What waits in the queue and goes into a pass: a tokenised text, or all rows of a request. Its length is its cost."""

Output = Any
"""On the host: what a task's `reduce` kept of one piece of work (numpy, or a tuple or mapping of numpy)."""


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """A named tensor of V2, on the host.

    datatype is V2's name (FP32, INT64, BYTES, …). data: a numpy array of that type in the given shape; for BYTES a
    flat list of bytes, row-major. content_type: what MLServer's clients read it as (np, str), "" for nothing special.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: Array | list[bytes]
    content_type: str = ""


def datatype(dtype: np.dtype[Any]) -> str:
    """V2's name for the elements of an array; BYTES for all that are no numbers."""
    if dtype.kind == "b":
        return "BOOL"
    letters = {"i": "INT", "u": "UINT", "f": "FP"}.get(dtype.kind)
    return f"{letters}{min(64, dtype.itemsize * 8)}" if letters else "BYTES"


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


@dataclass(frozen=True, slots=True)
class Signature:
    """What a model of features takes and gives, as far as its file says. The task is built from it."""

    form: Literal["array", "table", "tensors", "texts", "any"]
    """One array; a column for each name; a tensor for each name; texts; whatever comes, where nothing is known."""
    inputs: tuple[TensorSpec, ...]
    methods: tuple[str, ...]
    """What can be asked, the default first."""
    outputs: tuple[TensorSpec, ...] = ()
    """As far as the file says it; what the sample is answered says more."""
    by_method: bool = True
    """V2 calls an output as the method that made it (scikit-learn), and not as the model does (MLflow)."""
    typed: bool = False
    """The model insists on the datatypes of `inputs`, and says itself which of them are missing."""
    options: frozenset[str] = frozenset()
    """The model's own parameters."""
    sample: Rows | None = None
    """A row or a few that the model should be able to answer."""


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
    content_type: str = ""
    """What MLServer's clients read the outputs as together (np, pd, dict)."""
    chosen: bool = False
    """The outputs are those that the request named, even where they are called otherwise (the columns of a table)."""
