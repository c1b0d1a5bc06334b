"""A transformers network as an ONNX graph whose batch and sequence may have any size, with PyTorch's own exporter.

The exporter that traces (`dynamo=False`) is not used: it takes for constants what depends on the attention mask, and
gives other answers in padded batches. Blocking; knows no file but the graph's, and no Triton.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from modelserve.errors import LoadError
from modelserve.types import Encoding

OPSET = 18
"""What the exporter writes without converting; ONNX Runtime reads it from 1.14 on."""
_ONE_FILE = 1_800_000_000
"""Bytes of weights; a protobuf message, which the graph is, has at most 2 GB. More are in a file beside it."""
WEIGHTS = "model.onnx.data"


class Exportable(torch.nn.Module):
    """The network with its tensors by position, and with one answer: [B, C], [B, L, C] or [B, L, H], in float32."""

    def __init__(self, network: PreTrainedModel, task: str) -> None:
        super().__init__()
        self.network = network.eval()
        self.output = "last_hidden_state" if task == "text_embedding" else "logits"
        self.inputs = _inputs(network)

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        answer: Any = self.network(**dict(zip(self.inputs, tensors, strict=True)), return_dict=True)
        if self.output == "last_hidden_state":
            found: torch.Tensor = answer[0]
        else:  # BertForPreTraining and its like name the token head's answer prediction_logits
            found = answer["logits"] if "logits" in answer else answer["prediction_logits"]
        return found.float()

    def tensors(self, texts: Sequence[Encoding], columns: int = 0) -> tuple[torch.Tensor, ...]:
        """`inputs` for a padded batch, int64 [texts, longest]; columns: at least so many."""
        longest = max(columns, *map(len, texts))
        padding = getattr(self.network.config, "pad_token_id", None) or 0
        rows = {
            "input_ids": [text.ids + [padding] * (longest - len(text)) for text in texts],
            "attention_mask": [[1] * len(text) + [0] * (longest - len(text)) for text in texts],
            "token_type_ids": [(text.type_ids or [0] * len(text)) + [0] * (longest - len(text)) for text in texts],
        }
        return tuple(torch.tensor(rows[name]) for name in self.inputs)


def write(exportable: Exportable, texts: Sequence[Encoding], file: Path) -> None:
    """Write the graph, exported along a batch of these texts, which are two at least and of two lengths.

    Raises LoadError with the exporter's reason.
    """
    batch, sequence = torch.export.Dim("batch"), torch.export.Dim("sequence")
    try:
        with _quiet(), torch.no_grad():
            program = torch.onnx.export(
                exportable,
                exportable.tensors(texts),
                input_names=list(exportable.inputs),
                output_names=[exportable.output],
                opset_version=OPSET,
                dynamo=True,
                dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in exportable.inputs),),
                verbose=False,
            )
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # whatever the architecture's code and the exporter raise
        name = type(exportable.network).__name__
        raise LoadError(f"{name} cannot be exported to ONNX: {_reason(error)}") from error
    assert program is not None, "dynamo=True gives a program"
    weights = sum(tensor.nbytes for tensor in exportable.state_dict().values())
    try:
        with _quiet():
            program.save(file, external_data=weights > _ONE_FILE)
    except OSError as error:
        raise LoadError(f"{file.name} cannot be written to {file.parent}: {error.strerror or error}") from error


def _inputs(network: PreTrainedModel) -> tuple[str, ...]:
    """What it reads of what a tokenizer gives. Types only where there are several: one alone, or none, is the
    network's own affair."""
    known = signature(network.forward).parameters
    several = (getattr(network.config, "type_vocab_size", None) or 0) > 1
    wanted = ["input_ids", "attention_mask", *(["token_type_ids"] if several else [])]
    return tuple(name for name in wanted if name in known)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter says to itself: deprecations of its own, and on stderr pages of graphs that it gives up."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def _reason(error: BaseException) -> str:
    """The first line of what began it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
