"""`modelserve export`: a model's directory -> a model of a Triton repository, checked against transformers.

Export and check run in this process (export_onnx_graph.py, export_onnx_check.py). The model's directory is made beside
the repository and renamed into it when it is whole, so that a Triton that polls never sees half of one. Blocking.
"""

from __future__ import annotations

import gc
import os
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.registry import TASKS, load
from modelserve.runtime.building import Say, alone, building, check_space, put
from modelserve.runtime.files import Files, resolve
from modelserve.runtime.heads import encoder_class, missing_head
from modelserve.runtime.info import inspect
from modelserve.runtime.triton_repository import (
    CONFIG,
    GRAPH,
    VERSION,
    Instances,
    TritonModel,
    check_name,
    config_pbtxt,
)
from modelserve.types import Array, ModelInfo, TensorSpec

if TYPE_CHECKING:
    from modelserve.runtime.export_onnx_check import Deviation
    from modelserve.runtime.export_onnx_graph import Exportable

RECORD = "modelserve.json"
"""Beside config.pbtxt, where Triton does not look."""
_BYTES = {"float32": 4, "float16": 2}
_PACKAGES = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A command line of `modelserve export`."""

    config: Config
    """Where the model is, its task, its name in the repository, its dtype."""
    output: Path
    """The repository."""
    max_batch_size: int
    instances: Instances
    overwrite: bool


class Tensor(msgspec.Struct, frozen=True):
    """As config.pbtxt has it, the batch before its dims."""

    name: str
    datatype: str
    dims: tuple[int, ...]


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """modelserve.json of an exported model."""

    source: str
    """The model id, or the directory, for people."""
    revision: str
    task: str
    dtype: str
    max_batch_size: int
    max_length: int
    """Tokens that the network reads."""
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    opset: int
    versions: dict[str, str]
    """Of the packages that made and checked it."""
    texts: int
    """Of the check."""
    deviation: float
    """The largest from transformers' answers."""
    tolerance: float
    """More than this is never written."""
    format: int = 1


def export(asked: Asked, say: Say) -> tuple[Path, Record]:
    """The model's directory in the repository, and what is known of it. Raises ConfigError, LoadError."""
    _check_packages()
    check_name(asked.config.model_name)
    target = asked.output / asked.config.model_name
    _check_place(asked, target)
    say("looking at the model")
    files = resolve(asked.config, lambda fraction: say(f"download {fraction:.0%}"))
    info, task = inspect(files, asked.config)
    _check_task(files, info, task)
    place = _place(asked.output)
    with alone(target, say), building(target, place) as made:
        _check_place(asked, target)  # again: another export may just have ended
        check_space(files.shapes, _BYTES[_dtype(asked)], made, "the export", asked.output)
        record = _fill(made, asked, files, info, task, say)
        asked.output.mkdir(parents=True, exist_ok=True)
        put(made, target)
    return target, record


def _fill(made: Path, asked: Asked, files: Files, info: ModelInfo, task: str, say: Say) -> Record:
    """All files of the model's directory."""
    from modelserve.runtime import export_onnx_check as check
    from modelserve.runtime import export_onnx_graph as graph
    from modelserve.runtime.tokenizer import load_tokenizer

    dtype = _dtype(asked)
    tokenizer = load_tokenizer(asked.config, files, info)
    say("loading the model with transformers")
    network = _network(asked, files, info, task, "float32")
    texts = check.texts(tokenizer, network.network.config)
    say("answers of transformers, to check by")
    known = check.answers(network, texts)
    if dtype != "float32":
        del network
        gc.collect()
        network = _network(asked, files, info, task, dtype)
    say("exporting to ONNX")
    (made / VERSION).mkdir()
    file = made / VERSION / GRAPH
    graph.write(network, texts[:2], file)
    say("checking with ONNX Runtime")
    found = check.deviation(file, network, texts, known, rows=asked.max_batch_size, dtype=dtype)
    _check_answers(found, type(network.network).__name__)
    model = _described(asked, network, known[0])
    versions = {name: metadata.version(name) for name in ("modelserve", "torch", "transformers", *_PACKAGES)}
    record = Record(
        source=asked.config.model_id or str(files.model),
        revision=files.revision,
        task=task,
        dtype=dtype,
        max_batch_size=asked.max_batch_size,
        max_length=info.max_length,
        inputs=_tensors(model.inputs),
        outputs=_tensors(model.outputs),
        opset=graph.OPSET,
        versions=versions,
        texts=found.texts,
        deviation=found.largest,
        tolerance=found.tolerance,
    )
    (made / CONFIG).write_text(config_pbtxt(model), encoding="utf-8")
    (made / RECORD).write_bytes(msgspec.json.format(msgspec.json.encode(record), indent=2))
    return record


def _check_packages() -> None:
    """Raises LoadError where the extra is not installed."""
    lacking = next((name for name in _PACKAGES if find_spec(name) is None), None)
    if lacking is not None:
        raise LoadError(f"{lacking} is not installed, which exports to ONNX need; pip install 'modelserve[onnx]'")


def _check_place(asked: Asked, target: Path) -> None:
    """Raises ConfigError for a place that is no repository, or holds something that shall stay."""
    if asked.output.exists() and not asked.output.is_dir():
        raise ConfigError(f"--output {asked.output} is a file; give the directory of a Triton model repository")
    if not target.exists() and not target.is_symlink():
        return
    if not (target / CONFIG).is_file():
        raise ConfigError(
            f"{target} is there already and is no model of Triton; give another --output or --model_name, or remove it"
        )
    if target.is_symlink() and asked.overwrite:
        raise ConfigError(f"{target} is a link, which is not overwritten; give another --output or --model_name")
    if not asked.overwrite:
        raise ConfigError(f"{target} is there already; give --overwrite to replace it, or another --model_name")


def _check_task(files: Files, info: ModelInfo, task: str) -> None:
    """Raises LoadError for what is no encoder."""
    if task not in TASKS:
        name = (info.config.get("architectures") or ["the model"])[0]
        raise LoadError(
            f"{name} is made for {task}; only encoders are exported to ONNX, for {', '.join(TASKS)} (--task)"
        )


def _place(repository: Path) -> Path:
    """Where it is made, on the repository's disk: not in it, where a Triton that polls would take it for a model,
    unless there is no other place."""
    place = repository
    while not place.exists():
        place = place.parent
    above = place.parent
    if place == repository and os.access(above, os.W_OK) and above.stat().st_dev == place.stat().st_dev:
        return above
    return place


def _dtype(asked: Asked) -> str:
    return asked.config.dtype or "float32"


def _network(asked: Asked, files: Files, info: ModelInfo, task: str, dtype: str) -> Exportable:
    from modelserve.backends.pretrained import load_pretrained
    from modelserve.runtime.export_onnx_graph import Exportable

    auto_class: str = load(TASKS[task]).auto_class
    loaded = load_pretrained(
        files.model,
        encoder_class(task, auto_class, info.config.get("model_type")),
        dtype,
        asked.config.trust_remote_code,
        asked.config.allow_pickle,
        lambda keys: missing_head(keys, task),
    )
    return Exportable(loaded, task)


def _check_answers(found: Deviation, name: str) -> None:
    """Raises LoadError for a graph that answers something else."""
    if found.largest <= found.tolerance:
        return
    allowed = f"and {found.tolerance:.2g} is allowed"
    if found.alone > found.tolerance:
        raise LoadError(
            f"{name} exported to ONNX gives other answers than with transformers: they differ by {found.alone:.2g}, "
            f"{allowed}; serve it without --predictor_host"
        )
    how = f"gives other answers, by {found.padded:.2g}, {allowed}," if isfinite(found.padded) else "fails"
    raise LoadError(f"{name} exported to ONNX {how} in padded batches; alone texts are right: give --max_batch_size 1")


def _described(asked: Asked, network: Exportable, answer: Array) -> TritonModel:
    """answer: to one text, [C] or [tokens, columns]."""
    columns = answer.shape[-1]
    shape = (-1, columns) if answer.ndim == 1 else (-1, -1, columns)
    return TritonModel(
        name=asked.config.model_name,
        max_batch_size=asked.max_batch_size,
        inputs=tuple(TensorSpec(name, "INT64", (-1, -1)) for name in network.inputs),
        outputs=(TensorSpec(network.output, "FP32", shape),),
        instances=asked.instances,
        comment=f"Written by modelserve export; {RECORD} says of what, and how exact it is.",
    )


def _tensors(specs: tuple[TensorSpec, ...]) -> tuple[Tensor, ...]:
    return tuple(Tensor(spec.name, spec.datatype, spec.shape[1:]) for spec in specs)
