"""A model as a Triton model repository has it: NAME/config.pbtxt and NAME/1/model.onnx. Pure; knows no file, no torch.

What the fields mean is in Triton's model_configuration.md. `platform: "onnxruntime_onnx"` is the older way to say
`backend: "onnxruntime"`; both find `model.onnx` by themselves.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from modelserve.errors import ConfigError
from modelserve.types import TensorSpec

CONFIG = "config.pbtxt"
VERSION = "1"
"""The version's directory; Triton serves the highest number unless told otherwise."""
GRAPH = "model.onnx"

_NAME = re.compile(r"\w[\w.+-]*")
"""Of a directory, a part of a URL and a string of protobuf's text form, in all of which it needs no escape."""

Instances = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TritonModel:
    """What config.pbtxt says. The shapes are those of whole tensors, the batch being their first dimension."""

    name: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    instances: Instances = "auto"
    """Where it runs; auto leaves it to Triton, which takes every GPU that it has, else the CPU."""
    comment: str = ""


def check_name(name: str) -> None:
    """Raises ConfigError for a name that no model in a repository can have."""
    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"--model_name {name} cannot be the name of a directory in a Triton model repository; "
            "give one of letters, digits, _, -, + and ."
        )


def config_pbtxt(model: TritonModel) -> str:
    """The text of config.pbtxt."""
    lines = [f"# {line}" for line in model.comment.splitlines()]
    lines += [f'name: "{model.name}"', 'backend: "onnxruntime"', f"max_batch_size: {model.max_batch_size}"]
    lines += [line for kind in ("input", "output") for line in _tensors(kind, getattr(model, f"{kind}s"))]
    if model.max_batch_size > 1:
        lines.append("dynamic_batching { }")
    if model.instances != "auto":
        kind = {"cpu": "KIND_CPU", "cuda": "KIND_GPU"}[model.instances]
        lines += ["instance_group [", f"  {{ count: 1 kind: {kind} }}", "]"]
    return "\n".join(lines) + "\n"


def _tensors(kind: str, specs: tuple[TensorSpec, ...]) -> list[str]:
    rows = []
    for spec in specs:
        dims = ", ".join(map(str, spec.shape[1:]))
        rows.append(f'  {{ name: "{spec.name}" data_type: TYPE_{spec.datatype} dims: [ {dims} ] }}')
    return [f"{kind} [", ",\n".join(rows), "]"]
