"""Where converted models are, what is known of each, and whose they are. conversion.py makes them.

    $XDG_CACHE_HOME/modelserve/openvino/models/<weights>/<weights' type>-<exporter>/   the graph, and modelserve.json

A directory of its own (--output) looks the same inside. Weights are told apart by their files' names, sizes and times,
or by the blobs of Hugging Face's cache: nobody reads gigabytes at a start. Imports neither torch nor openvino.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import msgspec

from modelserve.runtime.weights import PICKLE, SAFETENSORS

log = logging.getLogger(__name__)

RECORD = "modelserve.json"
GRAPH = "openvino_model.xml"
PINS = "export_openvino.txt"
"""Beside this file: every package of the exporter's environment."""


class Deviation(msgspec.Struct, frozen=True):
    """How far a conversion is from the model: its logits behind texts that transformers wrote, greedily."""

    tokens: int
    """Compared."""
    equal: float
    """Share of them that the conversion would have chosen too, near-ties aside."""
    near_ties: int
    """Tokens whose two likeliest are nearer than 0.001 to one another: either is right."""
    mean: float
    """Of the differences of logits."""
    largest: float


class Record(msgspec.Struct, frozen=True):
    """modelserve.json of a conversion."""

    source: str
    """The model id, or the directory, for people."""
    identity: str
    """Which weights these were, as `identity` says."""
    weights: str
    """float32 or int8."""
    exporter: str
    """As `exporter` says."""
    versions: dict[str, str]
    """Of the packages that made it, and of those that checked it."""
    prompts: int
    """Texts of the check."""
    deviations: dict[str, Deviation]
    """By what it computed in."""
    passed: bool
    """In float32 it chose the tokens that transformers chooses, all of them."""
    format: int = 1


def cache() -> Path:
    """What may be deleted: conversions, and environments of exporters."""
    given = os.environ.get("XDG_CACHE_HOME")
    return (Path(given) if given else Path.home() / ".cache").expanduser().absolute() / "modelserve" / "openvino"


def read(directory: Path) -> Record | None:
    """The record of a whole conversion; None for anything else."""
    if not (directory / GRAPH).is_file():
        return None
    try:
        return msgspec.json.decode((directory / RECORD).read_bytes(), type=Record)
    except (OSError, msgspec.DecodeError):  # none, or another version's
        return None


def find(source: Path, weights: Iterable[str] = ("float32",)) -> Path | None:
    """The directory to serve a model from: itself, where it is a conversion, or the cache's of these very weights, the
    newest of the first of `weights` that there is. None where none passed its check; int8 has none to pass."""
    own = read(source)
    if own is not None:
        return source
    try:
        there = (cache() / "models" / identity(source)).iterdir()  # with a dot those that are being made
        made = sorted((path for path in there if path.name[0] != "."), key=lambda path: path.stat().st_mtime)
    except OSError:
        return None
    for wanted in weights:
        for directory in reversed(made):
            record = read(directory)
            if record is not None and record.weights == wanted and (record.passed or wanted == "int8"):
                return directory
    return None


def place(source: Path, weights: str, exporter: str) -> Path:
    """Where the cache has, or would have, the conversion."""
    return cache() / "models" / identity(source) / f"{weights}-{exporter}"


def identity(source: Path) -> str:
    """Which weights and configuration a directory has."""
    marks = []
    for file in sorted(source.iterdir()):
        if file.name == "config.json" or _holds_weights(file.name):
            real = file.resolve()
            blob = file.is_symlink() and real.parent.name == "blobs"
            stat = real.stat()
            mark = real.name if blob else f"{real} {stat.st_mtime_ns}"
            marks.append(f"{file.name} {stat.st_size} {mark}")
    return hashlib.sha256("\n".join(marks).encode()).hexdigest()[:32]


def pins() -> str:
    """The exporter's packages, as pip reads them."""
    return resources.files("modelserve.runtime").joinpath(PINS).read_text(encoding="utf-8")


def exporter(said: str) -> str:
    """Short for what exports: the pins, or what another environment said that it has."""
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def _holds_weights(name: str) -> bool:
    kinds = (Path(SAFETENSORS).suffix, Path(PICKLE).suffix)
    return name.endswith(kinds)
