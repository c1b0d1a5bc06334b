"""What a task is: three verbs on the path, and the shapes of its answers. Knows no protocol and no backend.

A task of texts is a `Task`. The task of features (prediction.py) has the same verbs, for `Rows` and an `Estimate`.

`preprocess` runs in a tokenizer thread, before any queue: bad input is refused here, for that request alone.
`reduce` runs once per batch in the backend thread, on the device: keep only what the answers need.
`postprocess` runs per input on the host; `predictions` and `outputs` shape a whole request's answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from modelserve.types import Array, Encoding, Instance, Output, Params, Tensor, TensorSpec

if TYPE_CHECKING:
    import torch


class Tokenize(Protocol):
    """The tokenizer as a task sees it (runtime/tokenizer.py). May be called from several threads at once."""

    mask_token: str | None
    mask_token_id: int | None
    pad_token_id: int | None
    unknown_token_id: int | None
    vocab_size: int
    marks_subwords: bool
    """Whether tokens within a word carry a prefix, as WordPiece's `##`."""

    def __call__(
        self,
        instances: Sequence[Instance],
        params: Params,
        *,
        offsets: bool = False,
    ) -> list[Encoding]:
        """Encodings in order; truncates as `params.truncation` says. Raises InvalidRequest for a text too long."""

    def decode(self, ids: Sequence[int], *, skip_special: bool = False) -> str:
        """Text of the ids, as transformers' `decode` gives it."""

    def join(self, tokens: Sequence[str]) -> str:
        """Text of the tokens, as transformers' `convert_tokens_to_string` gives it."""

    def token(self, id: int) -> str: ...

    def ids(self, text: str) -> list[int]:
        """Token ids of `text` without special tokens."""

    def vocabulary_id(self, token: str) -> int | None: ...


class States(Protocol):
    """The result of one forward pass over a batch, on the device, rows in the order of the batch's encodings.

    hidden: [T, H], the last hidden state of all tokens end to end, no padding. lengths: tokens per encoding.
    groups: (first row, number of texts, length) for each run of neighbours of equal length, so that
    `hidden[first : first + n * length].view(n, length, H)` is a dense block.
    """

    lengths: list[int]
    groups: list[tuple[int, int, int]]

    @property
    def hidden(self) -> torch.Tensor: ...

    def token_logits(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        """The token head's answer [n, C] for those rows of `hidden`, for all rows when None."""

    def sequence_logits(self) -> torch.Tensor:
        """The sequence head's answer [B, C]."""


class Task(Protocol):
    """One ML task, built once for a model as `Task(config: Config, info: ModelInfo, tokenize: Tokenize)`.

    The constructor raises LoadError when the flags, the model's files or the tokenizer contradict the task.
    """

    name: str
    head: Literal["token", "sequence", "none"]
    """Which of States' heads the task reads; what V2's raw tensors answer with."""
    width: int
    """Numbers per row of what the head gives: classes, the vocabulary, or the hidden size without a head."""
    auto_class: str
    """The transformers class that loads a model with this task's head, such as AutoModelForMaskedLM."""

    def preprocess(self, instances: Sequence[Instance], params: Params) -> list[Encoding]:
        """One Encoding per instance. Raises InvalidRequest for what the task cannot answer."""

    def answer_bytes(self, encodings: Sequence[Encoding], params: Params) -> int:
        """Memory that the answer to these takes, about, in whichever form it is wanted; asked before the queue."""

    def reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        """One Output per encoding, on the host; None for those with `raw` set. Never a Python loop per token."""

    def postprocess(self, output: Output, encoding: Encoding, params: Params) -> Any:
        """The value of one input. Takes microseconds, but milliseconds where a parameter asks for much."""

    def predictions(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Any]:
        """V1's entries, one per input, from what `postprocess` gave."""

    def outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """V2's output tensors for the whole request."""

    def extra_outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """Tensors that V1 carries beside its predictions (offset_mapping); usually none."""

    def output_specs(self) -> list[TensorSpec]:
        """The outputs of the model's V2 metadata, with the server's own flags."""


@dataclass(frozen=True, slots=True, eq=False)
class Answer:
    """What a model of features answered to some rows, on the host: one array [N, …], or one for each name.

    array: numbers, or classes with names. texts: a list of texts. table: columns. tensors: named arrays.
    """

    values: Array | dict[str, Array]
    form: Literal["array", "texts", "table", "tensors"]

    @property
    def rows(self) -> int | None:
        """How many are answered; None where not all names have equally many."""
        if not isinstance(self.values, dict):
            return len(self.values)
        lengths = {len(column) for column in self.values.values()}
        return lengths.pop() if len(lengths) == 1 else None

    @property
    def size(self) -> int:
        """Values in it."""
        if isinstance(self.values, dict):
            return sum(column.size for column in self.values.values())
        return self.values.size

    def part(self, start: int, stop: int) -> Answer:
        """The answer to these rows alone."""
        if isinstance(self.values, dict):
            return Answer({name: column[start:stop] for name, column in self.values.items()}, self.form)
        return Answer(self.values[start:stop], self.form)


class Estimate(Protocol):
    """A model of features over the rows of one pass: what `States` are to a task of texts."""

    def __call__(self, method: str) -> Answer:
        """Its answer to all of them, in order; computed now. Raises InvalidRequest for input that it refuses."""
