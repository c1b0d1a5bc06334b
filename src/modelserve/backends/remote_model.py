"""A model on another server: what that server says of it, and which of its tensors are what.

Pure functions of what was said; knows no connection. Over V2 all is read from the metadata (and from Triton's model
configuration, where it has one); V1 says nothing, so there it is taken as usual.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from modelserve.backends.base import Layout
from modelserve.errors import LoadError
from modelserve.predictor import TENSORS
from modelserve.types import Caller, Tensor, TensorSpec

Head = Literal["token", "sequence", "none"]

_INTEGERS = ("INT64", "INT32")
_FLOATS = ("FP32", "FP16", "BF16", "FP64")
_USUAL = {"token": ("logits",), "sequence": ("logits",), "none": ("last_hidden_state", "token_embeddings")}
"""What the answer is called where several could be it, by transformers and sentence-transformers."""
_WHAT = {"token": "logits of every token", "sequence": "logits of every text", "none": "hidden states of every token"}


@dataclass(frozen=True, slots=True)
class RemoteModel:
    """What a server says of a model. max_batch_size and instances: None where it does not say them (no Triton)."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    optional: frozenset[str] = frozenset()
    """Names of inputs that may be left out."""
    max_batch_size: int | None = None
    """Most texts of a request; 0 where the model takes shapes as they are and batches nothing."""
    instances: int | None = None
    """Copies of it that compute side by side."""
    server: str = ""
    """Name and version."""
    platform: str = ""


class Predictor(Protocol):
    """A model on another server, over one protocol. Blocking; several threads may call at once."""

    def describe(self) -> RemoteModel | None:
        """What is said of the model, which is ready; None where the protocol says nothing.

        Raises PredictorDown where it cannot be reached or is not ready yet, LoadError where there is no such model.
        """

    def infer(self, inputs: Sequence[Tensor], output: str, numbers: int, caller: Caller, timeout_s: float) -> Tensor:
        """The output of that name, which should have so many numbers: far more are not read.

        Raises PredictorDown, Overloaded, RequestTimeout, PredictorFailed.
        """

    def close(self) -> None:
        """Close the connections."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How the model is asked."""

    sent: tuple[tuple[str, TensorSpec], ...]
    """Which of TENSORS are sent, and as what."""
    output: TensorSpec
    single: bool
    """Without a dimension for the batch: a text a request."""
    length: int | None
    """Tokens of every text, where the model takes no other number."""
    rows: int | None
    """Texts of every request, likewise."""
    max_batch_size: int

    @property
    def layout(self) -> Layout:
        if self.single or self.max_batch_size == 1:
            return "single"
        return "padded" if self.masks or self.length is not None else "equal"

    @property
    def masks(self) -> bool:
        return any(ours == "attention_mask" for ours, _ in self.sent)

    @property
    def types(self) -> bool:
        return any(ours == "token_type_ids" for ours, _ in self.sent)


def plan(
    model: RemoteModel | None,
    head: Head,
    width: int,
    *,
    names: Mapping[str, str],
    usual: Sequence[str],
    most: int | None,
) -> Plan:
    """How a model with that head of `width` numbers is asked.

    names: --tensor_input_names. usual: of TENSORS, those that the tokenizer lists. most: --predictor_max_batch_size.
    Raises LoadError, which lists what the remote predictor has, where that does not fit.
    """
    if model is None:
        sent = names or {name: name for name in usual}
        specs = tuple((ours, TensorSpec(theirs, "INT64", (-1, -1))) for ours, theirs in sent.items())
        return Plan(
            specs,
            TensorSpec(_USUAL[head][0], "FP32", ()),
            single=False,
            length=None,
            rows=None,
            max_batch_size=most or 1,
        )
    chosen = _inputs(model, names)
    shape = chosen[0][1].shape
    single = len(shape) == 1
    length = shape[-1] if shape[-1] > 0 else None
    output = _output(model, head, width, single=single)
    if length is not None and not any(ours == "attention_mask" for ours, _ in chosen):
        raise LoadError(
            f"the remote predictor takes {length} tokens of every text and no attention_mask, so that shorter ones "
            f"cannot be told from their padding; its inputs are {listed(model.inputs)}"
        )
    rows = shape[0] if not single and shape[0] > 0 else None
    limit = 1 if single else min(filter(None, (model.max_batch_size, rows, most)), default=1)
    return Plan(chosen, output, single=single, length=length, rows=rows, max_batch_size=limit)


def fixed_length(model: RemoteModel | None, names: Mapping[str, str]) -> int | None:
    """Tokens of every text, where the model takes no other number. Raises LoadError."""
    if model is None:
        return None
    length = _inputs(model, names)[0][1].shape[-1]
    return length if length > 0 else None


def headers_of(caller: Caller) -> dict[str, str]:
    """The caller's id and trace as headers; what no header can carry is left out."""
    found = {"x-request-id": caller.request_id, "traceparent": caller.traceparent, "tracestate": caller.tracestate}
    return {name: value for name, value in found.items() if value and value.isascii() and value.isprintable()}


def listed(specs: Sequence[TensorSpec]) -> str:
    """Tensors for a sentence: logits FP32 [-1, 3], …"""
    return ", ".join(f"{spec.name} {spec.datatype} {list(spec.shape)}" for spec in specs) or "none"


def _inputs(model: RemoteModel, names: Mapping[str, str]) -> tuple[tuple[str, TensorSpec], ...]:
    """Which tensors are sent, input_ids first."""
    has = {spec.name: spec for spec in model.inputs}
    sent = dict(names) or {name: name for name in TENSORS if name in has}
    inputs = f"its inputs are {listed(model.inputs)}"
    if "input_ids" not in sent:
        raise LoadError(f"the remote predictor has no input named input_ids; {inputs}; see --tensor_input_names")
    for theirs in sent.values():
        if theirs not in has:
            raise LoadError(f"the remote predictor has no input named {theirs} (--tensor_input_names); {inputs}")
    # A server like ours lists the inputs of texts beside those of tensors: what is text is not wanted with them.
    wanted = {spec.name for spec in model.inputs if spec.datatype != "BYTES"} - model.optional
    if lacking := sorted(wanted - set(sent.values())):
        raise LoadError(f"the remote predictor wants {', '.join(lacking)} too, which is not sent; {inputs}")
    chosen = tuple((ours, has[sent[ours]]) for ours in TENSORS if ours in sent)
    rank = len(chosen[0][1].shape)
    for _, spec in chosen:
        if spec.datatype not in _INTEGERS or len(spec.shape) != rank or rank not in (1, 2):
            raise LoadError(
                f"the remote predictor's {spec.name} is {spec.datatype} {list(spec.shape)}, and token ids are INT64 or "
                f"INT32 [-1, -1]; {inputs}"
            )
    return chosen


def _output(model: RemoteModel, head: Head, width: int, *, single: bool) -> TensorSpec:
    rank = (2 if head == "sequence" else 3) - single
    fitting = {
        spec.name: spec
        for spec in model.outputs
        if spec.datatype in _FLOATS and len(spec.shape) == rank and spec.shape[-1] in (-1, width)
    }
    named = [fitting[name] for name in _USUAL[head] if name in fitting]
    if named or len(fitting) == 1:
        return named[0] if named else next(iter(fitting.values()))
    wanted = [-1] * (rank - 1) + [width]
    raise LoadError(
        f"the remote predictor has {'several outputs' if fitting else 'no output'} that can be the {_WHAT[head]}, "
        f"{' or '.join(_FLOATS)} {wanted}; its outputs are {listed(model.outputs)}"
    )
