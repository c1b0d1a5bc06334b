"""One step of a model that was converted for OpenVINO: pieces of many sequences in, logits out; the past is in pages.

The attention of the converted graph is replaced by OpenVINO's paged one, as openvino-genai's continuous batching does
it, and only the logits that are wanted are computed. The schedule and the choice of tokens are ours (IterationEngine).
openvino-genai's own pipeline has Python's lock during a step, so that no request would be answered meanwhile, and a
structure that its grammars refuse ends everybody's text. Fulfils steps.Steps; runs in the load thread, then in the
engine's. OpenVINO computes without Python's lock.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modelserve.backends.decoder import Piece
from modelserve.backends.pages import BLOCK, Book
from modelserve.backends.room import tokens_for
from modelserve.errors import LoadError

log = logging.getLogger(__name__)

MODEL = "openvino_model.xml"
"""What the exporter calls the graph; its weights are beside it, in openvino_model.bin."""
_WANTED = "wanted"
"""The input that we add: of which tokens the logits are wanted."""
_THROUGH = ("Convert", "Add", "Multiply", "Divide", "Tanh", "Reshape", "Transpose", "Squeeze", "Unsqueeze")
"""Operations that may stand between the last matrix product and the logits: a bias, a scale, a soft cap."""
_COMPILED = 256
"""Operations that are kept compiled, one for each number of tokens that a step has. OpenVINO's own 5000 are 300 MiB
that a server of a tiny model grew by in a minute; steps of up to 32 texts want about so many."""
_KEEP = 4096
"""Tokens whose memory is kept when nobody writes: clearing it for every text that comes alone would cost more."""


def computes_in_bfloat16(core: Any = None) -> bool:
    """Whether OpenVINO does on this CPU."""
    if core is None:
        import openvino

        core = openvino.Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OpenVinoDecoder:
    """A converted causal language model and its KV memory."""

    def __init__(self, directory: Path, *, dtype: str = "float32", threads: int | None = None) -> None:
        """dtype: what it computes in, float32 or bfloat16. Raises LoadError."""
        try:
            import openvino
            from openvino._offline_transformations import paged_attention_transformation
        except ImportError as error:
            raise LoadError(
                "openvino is not installed, which the openvino backend needs; pip install 'modelserve[openvino]'"
            ) from error
        self._openvino: Any = openvino
        self.device = torch.device("cpu")
        self.dtype = dtype
        core = openvino.Core()
        precision = self._precision(core, dtype)
        try:
            model = core.read_model(directory / MODEL)
            paged_attention_transformation(model)
            self._narrowed = _narrow(model, openvino)
            model.validate_nodes_and_infer_types()
            properties: dict[str, Any] = {
                "PERFORMANCE_HINT": "LATENCY",
                "INFERENCE_PRECISION_HINT": precision,
                "KV_CACHE_PRECISION": precision,  # eight bits when not said, and other texts
                "CPU_RUNTIME_CACHE_CAPACITY": _COMPILED,
            }
            if threads:
                properties["INFERENCE_NUM_THREADS"] = threads
            compiled = core.compile_model(model, "CPU", properties)
        except (RuntimeError, ValueError) as error:
            raise LoadError(f"the conversion in {directory.name} cannot be run by OpenVINO: {_line(error)}") from error
        self._request: Any = compiled.create_infer_request()
        self._inputs = frozenset(name for port in compiled.inputs for name in port.get_names())
        self._caches = _caches(compiled)
        self.vocabulary: int = compiled.output("logits").get_partial_shape()[-1].get_length()
        self._version: str = openvino.get_version().partition("-")[0]
        self._book: Book | None = None
        self._memory: dict[str, np.ndarray[Any, Any]] = {}
        """What the request's tensors are views of."""
        self._most = 0

    @property
    def slots(self) -> Book:
        assert self._book is not None, "no memory was allotted yet"
        return self._book

    @property
    def bytes_per_token(self) -> int:
        """KV memory of one token."""
        return sum(_size(shape, 1) * int(element.size) for _, shape, element in self._caches) // BLOCK

    def allot(self, tokens: int | None, *, context: int, sequences: int) -> int:
        tokens = tokens_for(tokens, self.bytes_per_token, self.device, context=context, sequences=sequences)
        # The budget counts every sequence as the longest; rounded up to blocks, none takes more than one block more.
        self._book = Book(tokens // BLOCK + sequences, self._cleared)
        self._fresh()
        return tokens

    def step(self, pieces: Sequence[Piece]) -> torch.Tensor:
        book = self.slots
        ids: list[int] = []
        positions: list[int] = []
        wanted: list[int] = []
        past: list[int] = []
        blocks: list[int] = []
        begins, block_begins, longest = [0], [0], 0
        for slot, start, tokens, keep in pieces:
            end = start + len(tokens)
            ids.extend(tokens)
            positions.extend(range(start, end))
            past.append(start)
            begins.append(len(ids))
            wanted.extend(range(len(ids) - keep, len(ids)))
            blocks.extend(book.fit(slot, end))
            block_begins.append(len(blocks))
            longest = max(longest, end)
        self._most = max(self._most, len(blocks))
        values = {
            "input_ids": np.array(ids, np.int64),
            "position_ids": np.array(positions, np.int64),
            "past_lens": np.array(past, np.int32),
            "subsequence_begins": np.array(begins, np.int32),
            "block_indices": np.array(blocks, np.int32),
            "block_indices_begins": np.array(block_begins, np.int32),
            "max_context_len": np.array(longest, np.int32),
            _WANTED: np.array(wanted or [0], np.int64),  # not every kernel takes no rows at all
        }
        self._request.infer({name: value for name, value in values.items() if name in self._inputs}, share_inputs=True)
        logits = torch.from_numpy(self._request.get_tensor("logits").data).reshape(-1, self.vocabulary)
        return logits[: len(wanted)] if self._narrowed else logits[torch.tensor(wanted, dtype=torch.long)]

    def close(self) -> None:
        """Free the weights and the KV memory."""
        del self._request
        self._memory.clear()
        self._book = None

    def describe(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "dtype": self.dtype,
            "kv_bytes_per_token": self.bytes_per_token,
            "openvino": self._version,
        }

    def _precision(self, core: Any, dtype: str) -> Any:
        """OpenVINO's name of it. Raises LoadError for what this CPU does not compute in."""
        if dtype == "float32":
            return self._openvino.Type.f32
        if dtype != "bfloat16":
            raise LoadError(f"--dtype {dtype} is not for the openvino backend; give float32 or bfloat16")
        if not computes_in_bfloat16(core):
            raise LoadError(
                "--dtype bfloat16: OpenVINO does not compute in it on this CPU; give float32, or --backend huggingface"
            )
        return self._openvino.Type.bf16

    def _cleared(self) -> None:
        """Nobody writes: give much memory back."""
        if self._most * BLOCK > _KEEP:
            self._fresh()

    def _fresh(self) -> None:
        """Empty memory. The machine gives it as it is touched, and no earlier."""
        self._most = 0
        for name, shape, element in self._caches:
            zeros = np.zeros(_size(shape, self.slots.blocks) * element.size, np.uint8)
            tensor = self._openvino.Tensor(zeros, [self.slots.blocks, *shape], element)
            self._request.set_tensor(name, tensor)
            self._memory[name] = zeros


def _caches(compiled: Any) -> list[tuple[str, tuple[int, ...], Any]]:
    """Name of an input for keys or values, shape of a block, and what its numbers are. Raises LoadError."""
    found = []
    for port in compiled.inputs:
        names = [name for name in port.get_names() if name.startswith(("key_cache.", "value_cache."))]
        if names:
            shape = port.get_partial_shape()
            found.append(
                (names[0], tuple(shape[i].get_length() for i in range(1, len(shape))), port.get_element_type())
            )
    if not found:
        raise LoadError("the converted graph has no attention that can be paged")
    if any(BLOCK not in shape for _, shape, _ in found):
        raise LoadError(f"OpenVINO keeps blocks of {found[0][1]} here and not of {BLOCK} tokens")
    return found


def _narrow(model: Any, openvino: Any) -> bool:
    """Have the last matrix product compute the wanted tokens alone, where it can be found: a long prompt's logits are
    hundreds of megabytes that nobody reads."""
    from openvino import opset13 as ops

    node = model.output("logits").get_node().input_value(0).get_node()
    while node.get_type_name() in _THROUGH:
        node = node.input_value(0).get_node()
    if node.get_type_name() != "MatMul" or len(node.input_value(0).get_partial_shape()) != 3:
        return False
    hidden = node.input_value(0)
    # Flat tokens are [tokens, 1, width] or [1, tokens, width], as the exporter wrote the model.
    axis = 0 if hidden.get_partial_shape()[0].is_dynamic else 1
    wanted = ops.parameter([-1], dtype=np.int64, name=_WANTED)
    wanted.output(0).get_tensor().set_names({_WANTED})
    node.input(0).replace_source_output(ops.gather(hidden, wanted, ops.constant(axis, dtype=np.int64)).output(0))
    model.add_parameters([wanted])
    return True


def _size(shape: Sequence[int], blocks: int) -> int:
    return int(np.prod(shape)) * blocks


def _line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
