"""From the configuration to the model's files on this machine: a snapshot in Hugging Face's cache, or --model_dir.

What comes out is whole: config.json can be read and so can the headers of the weights. Knows no task and imports no
torch. Blocks; runs in the load thread.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Any

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import conversions, hub, remote
from modelserve.runtime.weights import (
    PICKLE,
    Shapes,
    choose,
    choose_modules,
    listed,
    module_folders,
    read_json,
    read_shapes,
)

log = logging.getLogger(__name__)

SMALL = (".json", ".txt", ".model", ".spm", ".bpe", ".codes", ".vocab", ".tiktoken", ".jinja")
"""Ends of the names of configurations and of tokenizers' files. What other formats there are (ONNX, OpenVINO,
TensorFlow, Flax, GGUF) is never downloaded."""


@dataclass(frozen=True, slots=True)
class Files:
    """A model's files, all here."""

    model: Path
    """The directory of the model."""
    tokenizer: Path
    """The directory of its tokenizer: the same one, unless --tokenizer_revision names another revision."""
    revision: str
    """The commit on the hub, "" for a directory."""
    config: dict[str, Any]
    """config.json."""
    weights: tuple[Path, ...]
    """None of a conversion; where the network runs elsewhere, only of what follows it."""
    shapes: Shapes | None
    """Tensors of the weights, None for pickled ones, which nobody reads before they are loaded, and conversions."""


def resolve(config: Config, progress: hub.Progress, here: Path | None = None) -> Files:
    """The files of --model_id or else of --model_dir, downloaded where they are not here.

    `progress` is told the fraction of the bytes that are here. here: what --model_dir has been brought to already.
    Raises LoadError.
    """
    weights = partial(choose_modules if config.predictor_host else choose, allow_pickle=config.allow_pickle)
    small = partial(_small, code=config.trust_remote_code)
    if config.model_id is None:
        model = tokenizer = _given(config, progress, here)
        revision = ""
    else:
        model = hub.snapshot(config.model_id, config.model_revision, small=small, large=weights, progress=progress)
        revision = model.name
        tokenizer = model
        if config.tokenizer_revision not in (None, config.model_revision, revision):
            tokenizer = hub.snapshot(
                config.model_id, config.tokenizer_revision, small=small, large=_nothing, progress=lambda fraction: None
            )
    described = _object(model / "config.json")
    if config.trust_remote_code:
        for repository, file in _foreign_code(described, _object(tokenizer / "tokenizer_config.json")):
            hub.fetch_code(repository, file)
    if conversions.read(model) is not None:
        if config.backend not in ("auto", "openvino"):
            raise LoadError(
                f"{model} is a model converted to openvino; give --backend openvino, or the model that it was made from"
            )
        return Files(model, tokenizer, revision, described, weights=(), shapes=None)
    names = [path.relative_to(model).as_posix() for path in model.rglob("*") if path.is_file()]
    found = [model / name for name in weights(names, model)]
    own = [file for file in found if file.parent == model]
    pickled = not own or own[0].suffix == Path(PICKLE).suffix
    read_shapes([file for file in found if file not in own and file.suffix != Path(PICKLE).suffix])  # that they can be
    return Files(
        model=model,
        tokenizer=tokenizer,
        revision=revision,
        config=described,
        weights=tuple(found),
        shapes=None if pickled else read_shapes(own),
    )


def _small(names: Collection[str], directory: Path, *, code: bool) -> list[str]:
    """Everything but the weights: configurations, tokenizer, the model card, and with `code` the Python files."""
    folders = module_folders(directory)
    return [
        name
        for name in names
        if (code and name.endswith(".py"))
        or name == "README.md"
        or (name.endswith(SMALL) and ("/" not in name or name.rpartition("/")[0] in folders))
    ]


def _nothing(names: Collection[str], directory: Path) -> list[str]:
    return []


def _given(config: Config, progress: hub.Progress, here: Path | None) -> Path:
    """The directory that --model_dir names, when there is a model in it."""
    given = remote.shown(config.model_dir)
    fetched = remote.is_fetched(config.model_dir)
    path = here or (remote.fetch(config.model_dir, progress) if fetched else Path(config.model_dir).expanduser())
    if not path.is_dir():
        default = next(field.default for field in fields(Config) if field.name == "model_dir")
        which = "the default of --model_dir; give --model_id or --model_dir" if given == default else "--model_dir"
        raise LoadError(
            f"there is no directory {given} ({which})" if not path.exists() else f"{given} ({which}) is no directory"
        )
    try:
        names = [entry.name + "/" * entry.is_dir() for entry in path.iterdir()]
    except OSError as error:
        raise LoadError(f"--model_dir {given} cannot be read: {error.strerror}") from error
    if "config.json" not in names:
        inside = sorted(entry for entry in path.iterdir() if (entry / "config.json").is_file())
        hint = f"; --model_dir {inside[0]} has one" if inside and not fetched else ""
        raise LoadError(f"there is no config.json in --model_dir {given}, which holds {listed(names)}{hint}")
    if config.model_revision or config.tokenizer_revision:
        log.warning("--model_revision and --tokenizer_revision mean nothing without --model_id")
    return path.resolve()


def _foreign_code(*described: dict[str, Any]) -> set[tuple[str, str]]:
    """Repository and file of the code that a model takes from another one: `auto_map` has repository--file.Class."""
    found = set()
    for configuration in described:
        auto_map = configuration.get("auto_map")
        for value in auto_map.values() if isinstance(auto_map, dict) else ():
            for reference in value if isinstance(value, list) else [value]:
                repository, separator, name = str(reference).partition("--")
                if separator:
                    found.add((repository, name.rpartition(".")[0] + ".py"))
    return found


def _object(file: Path) -> dict[str, Any]:
    """A JSON configuration; empty when there is none. Raises LoadError."""
    content = read_json(file) if file.exists() else {}
    if not isinstance(content, dict):
        raise LoadError(f"{file.name} is not a JSON object")
    return content
