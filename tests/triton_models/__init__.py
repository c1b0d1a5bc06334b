"""Model repositories for the tests' Triton: each model runs a transformers directory's own forward pass (model.py).

Knows no server. A test writes what it needs with `write(repository, Model(…), …)` and starts tests/triton.py on it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Model:
    """A model as Triton serves it: what it computes, how it describes itself, and what goes wrong."""

    name: str
    directory: Path
    task: str
    network: Literal["numpy", "transformers"] = "numpy"
    """NumPy's is for BERT, and is there at once. transformers' is for any architecture and takes five seconds."""
    max_batch_size: int = 8
    """0: Triton batches nothing, and the shapes have a dimension for the batch themselves."""
    ids: Literal["INT64", "INT32"] = "INT64"
    output: Literal["FP32", "FP16", "FP64"] = "FP32"
    length: int = -1
    """Tokens of every text; -1: any."""
    names: dict[str, str] = field(
        default_factory=lambda: {n: n for n in ("input_ids", "attention_mask", "token_type_ids")}
    )
    """What it calls its inputs, by transformers' names; those that are not here it does not take."""
    optional: tuple[str, ...] = ()
    """Inputs that may be left out."""
    output_name: str = ""
    """The usual one where it is empty."""
    described: tuple[tuple[str, str, tuple[int, ...]], ...] | None = None
    """Names, datatypes and dims (without the batch) of the outputs, where they are not the true ones."""
    instances: int = 1
    queue: int | None = None
    """Requests that wait at most; Triton refuses others. None: any number."""
    delay_s: float = 0.0
    slow_id: int | None = None
    """Only requests with this token take delay_s; None: all do."""
    refuses: int | None = None
    """The token for which it raises."""
    answers: Literal["right", "a text less", "a text more", "a class less", "a dimension more"] = "right"

    @property
    def width(self) -> int:
        config = json.loads((self.directory / "config.json").read_text())
        return {
            "text_embedding": config.get("hidden_size"),
            "fill_mask": config.get("vocab_size"),
        }.get(self.task) or len(config.get("id2label") or (0, 1))

    @property
    def sent(self) -> str:
        return self.output_name or ("last_hidden_state" if self.task == "text_embedding" else "logits")


@dataclass(frozen=True)
class Seen:
    """A request as a model saw it."""

    shape: list[int]
    id: str
    inputs: list[str]
    beside: int
    """Requests that Triton ran together with it, itself included."""


def write(repository: Path, *models: Model) -> Path:
    """Triton's repository with these models."""
    for model in models:
        version = repository / model.name / "1"
        version.mkdir(parents=True)
        for file in ("model.py", "bert.py"):
            shutil.copy(HERE / file, version)
        (version.parent / "config.pbtxt").write_text(_config(repository, model))
    return repository


def seen(repository: Path, name: str) -> list[Seen]:
    """The requests that reached a model, in order."""
    file = _seen(repository, name)
    return [Seen(**json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []


def forget(repository: Path, name: str) -> None:
    """Begin `seen` anew."""
    _seen(repository, name).unlink(missing_ok=True)


def _seen(repository: Path, name: str) -> Path:
    return repository / name / "seen.jsonl"


def _config(repository: Path, model: Model) -> str:
    rows = () if model.max_batch_size else (-1,)
    token = (model.length,) if model.task != "sequence_classification" else ()
    outputs = model.described or ((model.sent, model.output, (*token, model.width)),)
    tensors = [
        _tensor("input", theirs, model.ids, (*rows, model.length), optional=ours in model.optional)
        for ours, theirs in model.names.items()
    ]
    tensors += [_tensor("output", name, datatype, (*rows, *dims)) for name, datatype, dims in outputs]
    given: dict[str, Any] = {
        "directory": str(model.directory),
        "task": model.task,
        "network": model.network,
        "names": {name: name for name in ("input_ids", "attention_mask", "token_type_ids")} | model.names,
        "output": model.output,
        "output_name": model.sent,
        "delay_s": model.delay_s,
        "slow_id": model.slow_id,
        "refuses": model.refuses,
        "answers": model.answers,
        "seen": str(_seen(repository, model.name)),
    }
    policy = f"default_queue_policy {{ max_queue_size: {model.queue} }}"
    batching = "" if model.queue is None else f"dynamic_batching {{ {policy} }}\n"
    return (
        f'backend: "python"\nmax_batch_size: {model.max_batch_size}\n{"".join(tensors)}{batching}'
        f"instance_group [ {{ kind: KIND_CPU count: {model.instances} }} ]\n"
        # A string of JSON is one of protobuf's text format, too, as long as it is ASCII.
        f'parameters {{ key: "given" value {{ string_value: {json.dumps(json.dumps(given))} }} }}\n'
    )


def _tensor(kind: str, name: str, datatype: str, dims: tuple[int, ...], *, optional: bool = False) -> str:
    may = " optional: true" if optional else ""
    datatype = datatype.replace("BYTES", "STRING")
    return f'{kind} {{ name: "{name}" data_type: TYPE_{datatype} dims: {list(dims)}{may} }}\n'
