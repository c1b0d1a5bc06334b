"""Whether an ONNX graph answers as the network that it was made of: each text alone with transformers, against ONNX
Runtime with the same texts in padded batches.

Blocking; on the CPU.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch

from modelserve.backends.layout import samples
from modelserve.errors import LoadError
from modelserve.runtime.export_onnx_graph import Exportable
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import Array, Encoding, Params, TextPair

TOLERANCE = {"float32": 1e-4, "float16": 2e-2}
"""Largest difference that rounding may cause, relative to the largest answer (absolute below 1)."""
_LONGEST = 2048
"""Tokens of the longest text of the check. Networks that read more than 1024 may attend otherwise then (BigBird)."""
_SHORTEST = 3
"""Tokens of the shortest that any network answers; Funnel fails on one."""
_WIDER = 5
"""Columns of padding behind the longest text: a client may pad to a length of its own."""

_TEXTS = (
    "Paris",
    "The capital of France is Paris.",
    "Zoë and René drank café crème in Besançon.",
    "I love this film, the actors were wonderful; I hated the book, the story was boring and bad.",
    TextPair("Who sat on the mat?", "The cat sat on the mat, and the dog slept near the door."),
)


@dataclass(frozen=True, slots=True)
class Deviation:
    """How far the answers are apart."""

    texts: int
    alone: float
    """Largest difference of texts that run alone."""
    padded: float
    """And of texts in padded batches; 0 where none were run, infinite where the graph fails on them."""
    tolerance: float
    """What rounding may cause."""

    @property
    def largest(self) -> float:
        return max(self.alone, self.padded)


def texts(tokenizer: Tokenizer, config: Any) -> list[Encoding]:
    """Real ones, and random ids, of different lengths: 1 token, and as many as the network reads, among them."""
    special = tokenizer.loaded.all_special_ids
    end = config.eos_token_id if isinstance(getattr(config, "eos_token_id", None), int) else None
    longest = min(tokenizer.max_length, _LONGEST)
    made = samples(tokenizer.rows, longest, set(special), end)
    ids = made[-1].ids
    repeated = (ids * (longest // len(ids) + 1))[-longest:]
    return [*tokenizer(_TEXTS, Params()), *made, Encoding(ids=ids[-1:]), Encoding(ids=repeated)]


def answers(network: Exportable, asked: Sequence[Encoding]) -> dict[int, Array]:
    """transformers', to each text alone, by its place: [C], [L, C] or [L, H]. Without those that are too short for it.

    Raises LoadError.
    """
    found: dict[int, Array] = {}
    for i, text in enumerate(asked):
        try:
            with torch.inference_mode():
                found[i] = network(*network.tensors([text]))[0].numpy()
        except (torch.OutOfMemoryError, MemoryError):
            raise
        except Exception as error:  # whatever the architecture's code raises
            if len(text) >= _SHORTEST:
                raise LoadError(f"the network fails on a text of {len(text)} tokens: {_line(error)}") from error
    if not all(np.isfinite(answer).all() for answer in found.values()):
        raise LoadError("the weights give NaN or infinite values")
    return found


def deviation(
    file: Path, network: Exportable, asked: Sequence[Encoding], known: Mapping[int, Array], *, rows: int, dtype: str
) -> Deviation:
    """Of the graph's answers from those that are known. rows: most texts of a batch; with 1 none is padded.

    Raises LoadError for a graph that does not run.
    """
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # what fails is raised
    options.intra_op_num_threads = torch.get_num_threads()
    worst = {"alone": 0.0, "padded": 0.0}
    kind = "alone"
    try:
        session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
        for together, columns in _batches([asked[i] for i in known], list(known), rows):
            tensors = network.tensors([asked[i] for i in together], columns)
            named = {name: tensor.numpy() for name, tensor in zip(network.inputs, tensors, strict=True)}
            kind = "padded" if len(together) > 1 else "alone"
            (made,) = session.run([network.output], named)
            for i, row in zip(together, made, strict=True):
                answer = row if row.ndim == 1 else row[: len(asked[i])]
                worst[kind] = max(worst[kind], _apart(answer, known[i]))
    except Exception as error:  # ONNX Runtime's own, which have no common class
        if kind == "alone":
            raise LoadError(f"the exported graph cannot be run by ONNX Runtime: {_line(error)}") from error
        worst[kind] = float("inf")
    largest = max(float(np.abs(answer).max()) for answer in known.values())
    return Deviation(len(known), worst["alone"], worst["padded"], TOLERANCE[dtype] * max(1.0, largest))


def _batches(asked: Sequence[Encoding], places: Sequence[int], rows: int) -> Iterator[tuple[list[int], int]]:
    """Which texts run together, and columns that they are padded to at least: each alone; then all, as they come, but
    for the longest, in batches; the longest with the shortest; the shortest with more padding than anybody needs."""
    for i in places:
        yield [i], 0
    if rows == 1:
        return
    length = {i: len(text) for i, text in zip(places, asked, strict=True)}
    order = sorted(places, key=length.__getitem__)
    others = [i for i in places if i != order[-1]]
    for start in range(0, len(others), rows):
        yield others[start : start + rows], 0
    yield [order[-1], order[0]], 0
    yield order[:2], length[order[1]] + _WIDER


def _apart(made: Array, known: Array) -> float:
    """Largest difference; infinite for what is no number."""
    off = float(np.abs(made.astype(np.float64) - known).max())
    return off if np.isfinite(off) else float("inf")


def _line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
