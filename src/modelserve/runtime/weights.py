"""Which files of a model hold its weights, and what they hold, from file names and safetensors headers alone.

Reads no tensor, imports no torch and knows no hub. Runs in the load thread.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open

from modelserve.errors import LoadError

SAFETENSORS = "model.safetensors"
PICKLE = "pytorch_model.bin"
INDEX = ".index.json"
"""Added to either name: the list of the shards that a large model is split into."""

Shapes = Mapping[str, tuple[int, ...]]
"""Tensor name -> shape."""


def choose(names: Collection[str], directory: Path, *, allow_pickle: bool) -> list[str]:
    """The weight files to load, out of `names` (the paths in a repository or directory).

    `directory` already holds the small files: an index of shards and modules.json are read there. safetensors wins
    over pickles. Raises LoadError when there are no weights, or only pickled ones and those are not allowed.
    """
    found = _files(names, directory, SAFETENSORS)
    if not found:
        found = _files(names, directory, PICKLE)
        if not found:
            raise LoadError(f"the model has no weights ({SAFETENSORS}); it holds {listed(names)}")
        _allow(found[0], allow_pickle)
    return found + choose_modules(names, directory, allow_pickle=allow_pickle)


def choose_modules(names: Collection[str], directory: Path, *, allow_pickle: bool) -> list[str]:
    """Of the weight files, those of what follows the network in a sentence-transformers model. Raises LoadError."""
    found = []
    for folder in module_folders(directory):
        if f"{folder}/{SAFETENSORS}" in names:
            found.append(f"{folder}/{SAFETENSORS}")
        elif f"{folder}/{PICKLE}" in names:
            _allow(f"{folder}/{PICKLE}", allow_pickle)
            found.append(f"{folder}/{PICKLE}")
    return found


def module_folders(directory: Path) -> list[str]:
    """The folders of a sentence-transformers model's modules (1_Pooling, 2_Dense); none for any other model."""
    if not (directory / "modules.json").is_file():
        return []
    modules = read_json(directory / "modules.json")
    if not isinstance(modules, list):
        raise LoadError("modules.json is not a list of modules")
    paths = [str(module.get("path", "")) for module in modules if isinstance(module, dict)]
    return [path for path in paths if path]


def read_shapes(files: Collection[Path]) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor in these safetensors files, from their headers.

    Raises LoadError for a file that is cut off, damaged, or no safetensors file.
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            with file.open("rb") as stream:
                if stream.read(23) == b"version https://git-lfs":
                    raise LoadError(f"{file.name} is a git-lfs pointer, not weights; run `git lfs pull`") from error
            raise LoadError(
                f"{file.name} is damaged or cut off ({file.stat().st_size} bytes: {error}); get it again"
            ) from error
    return shapes


def read_json(file: Path) -> object:
    """The content of a JSON file of the model. Raises LoadError where it is none."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{file.name} is not valid JSON: {error}") from error
    except OSError as error:
        raise LoadError(f"{file.name} cannot be read: {error.strerror}") from error


def listed(names: Collection[str]) -> str:
    """A few names, for a message."""
    shown = sorted(names)
    if not shown:
        return "nothing"
    return ", ".join(shown[:6]) + (f" and {len(shown) - 6} more" if len(shown) > 6 else "")


def _files(names: Collection[str], directory: Path, single: str) -> list[str]:
    """The one file, or the shards that its index names, or nothing."""
    if single in names:
        return [single]
    if single + INDEX not in names:
        return []
    index = read_json(directory / (single + INDEX))
    if not isinstance(index, dict) or not isinstance(index.get("weight_map"), dict):
        raise LoadError(f"{single + INDEX} has no weight_map")
    shards = sorted({str(shard) for shard in index["weight_map"].values()})
    missing = [shard for shard in shards if shard not in names]
    if missing:
        raise LoadError(f"{single + INDEX} names {missing[0]}, which is not there")
    return shards


def _allow(file: str, allow_pickle: bool) -> None:
    if not allow_pickle:
        raise LoadError(
            f"the model has {file} and no safetensors file, and unpickling runs code that comes with the file; "
            "give --allow_pickle if you trust it"
        )
