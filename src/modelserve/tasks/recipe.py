"""How a model directory makes an embedding of token vectors: sentence-transformers' modules.json and what it names.

Reads files at load, in the load thread. Runs none of the directory's own code. Knows no request.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from modelserve.errors import LoadError
from modelserve.tasks.layers import KINDS, Dense, Normalize, load_layer
from modelserve.tasks.pooling import MODES
from modelserve.types import ModelInfo

T = TypeVar("T", dict[str, Any], list[Any])

_OLD_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
"""The flags of 1_Pooling/config.json before sentence-transformers 6, in the order in which their vectors are joined."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """What happens to the last hidden states of a text."""

    modes: tuple[str, ...] = ("mean",)
    """Poolings, whose vectors are joined."""
    include_prompt: bool = True
    """Whether the prompt's tokens count in the pooling."""
    layers: torch.nn.Sequential = field(default_factory=torch.nn.Sequential)
    """What follows the pooling, without the last Normalize."""
    normalize: bool = True
    """Whether the last step divides by the L2 norm."""
    dimensions: int = 0
    """Length of the vector."""
    prompts: Mapping[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    """Length to which sentence-transformers cuts every vector of this model, after Normalize."""
    matryoshka: tuple[int, ...] | None = None
    """Lengths to which a vector may be cut: () for any, None when the model was not trained for it."""


def read(info: ModelInfo, *, pooling: str | None = None, allow_pickle: bool = False) -> Recipe:
    """The recipe of a directory; mean and L2 for a bare encoder. `pooling` replaces the directory's.

    Raises LoadError for a module that is not known here, and for layers that do not fit.
    """
    settings = _json(info.path / "config_sentence_transformers.json", {})
    truncate_dim = settings.get("truncate_dim")
    shared: dict[str, Any] = {
        "prompts": {name: prompt or "" for name, prompt in (settings.get("prompts") or {}).items()},
        "default_prompt_name": settings.get("default_prompt_name"),
        "truncate_dim": truncate_dim,
        "matryoshka": _matryoshka(info, truncate_dim),
    }
    modules = _json(info.path / "modules.json", [])
    if not modules:
        return Recipe(modes=(pooling or "mean",), dimensions=info.hidden_size, **shared)
    pooled: dict[str, Any] | None = None
    layers: list[torch.nn.Module] = []
    for number, module in enumerate(modules):
        kind = _kind(module, first=number == 0)
        directory = info.path / module["path"]
        config = {} if kind == "Transformer" else _json(directory / "config.json", {})
        if kind == "Pooling":
            pooled = config
        elif kind in KINDS and pooled is None:
            raise LoadError(f"modules.json has {kind} before Pooling, which is not supported")
        elif kind in KINDS:
            layers.append(load_layer(kind, config, directory, allow_pickle=allow_pickle))
    if pooled is None:
        raise LoadError("modules.json has no Pooling: the model gives no vector per text")
    modes = (pooling,) if pooling else _modes(pooled)
    normalize = bool(layers) and isinstance(layers[-1], Normalize)
    kept = layers[:-1] if normalize else layers
    return Recipe(
        modes=modes,
        include_prompt=pooled.get("include_prompt", True),
        layers=torch.nn.Sequential(*kept),
        normalize=normalize,
        dimensions=_fitting(kept, len(modes) * info.hidden_size),
        **shared,
    )


def _kind(module: Any, *, first: bool) -> str:
    """Transformer, Pooling, one of KINDS, or Dropout, which does nothing outside training."""
    if not (isinstance(module, dict) and {"type", "path"} <= module.keys()):
        raise LoadError("modules.json is not a list of modules with type and path")
    package, _, kind = str(module["type"]).rpartition(".")
    known = ("Transformer",) if first else ("Pooling", *KINDS, "Dropout")
    if package.split(".")[0] != "sentence_transformers" or kind not in known:
        where = "first" if first else "behind the network"
        raise LoadError(f"modules.json names {module['type']}; supported {where}: {', '.join(known)}")
    return kind


def _modes(config: Mapping[str, Any]) -> tuple[str, ...]:
    named = config.get("pooling_mode")
    if named is None:
        modes = tuple(mode for flag, mode in _OLD_MODES.items() if config.get(flag)) or ("mean",)
    else:
        modes = (named,) if isinstance(named, str) else tuple(named)
    for mode in modes:
        if mode not in MODES:
            raise LoadError(f"1_Pooling/config.json has the pooling {mode!r}; known are {', '.join(MODES)}")
    return modes


def _fitting(layers: Sequence[torch.nn.Module], width: int) -> int:
    """The length of what the layers give for vectors of that width."""
    for dense in layers:
        if isinstance(dense, Dense):
            wide = dense.linear.in_features
            if wide != width:
                raise LoadError(f"a Dense module takes vectors of length {wide}, the pooling gives {width}")
            width = dense.linear.out_features
    return width


def _matryoshka(info: ModelInfo, truncate_dim: int | None) -> tuple[int, ...] | None:
    """Lengths that the model was trained for: () for any, None when nothing says that it was.

    Said by config.json's matryoshka_dimensions or is_matryoshka (vLLM reads these), by the model card that
    sentence-transformers writes after training with MatryoshkaLoss, or by a truncate_dim.
    """
    if listed := info.config.get("matryoshka_dimensions"):
        return tuple(sorted(listed))
    card = info.path / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace") if card.is_file() else ""
    if re.search(r"^\s*-\s*['\"]?loss:Matryoshka", text, re.MULTILINE):
        lists = re.findall(r'"matryoshka_dims":\s*\[([\d,\s]+)\]', text)
        return tuple(sorted({int(number) for one in lists for number in one.split(",") if number.strip()}))
    return () if truncate_dim is not None or info.config.get("is_matryoshka") else None


def _json(path: Path, default: T) -> T:
    """The file's content, `default` without a file. Raises LoadError for another type than the default's."""
    if not path.is_file():
        return default
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LoadError(f"{path.name} is not JSON") from error
    if not isinstance(content, type(default)):
        raise LoadError(f"{path.name} holds a {type(content).__name__}, not a {type(default).__name__}")
    return content
