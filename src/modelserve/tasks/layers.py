"""The modules that a sentence-transformers directory runs behind its pooling: Dense, LayerNorm, Normalize.

Read at load; run in the backend thread, in float32. Runs none of the directory's own code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from modelserve.errors import LoadError


class Normalize(torch.nn.Module):
    """Divides by the L2 norm."""

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(vectors, dim=-1)


class Dense(torch.nn.Module):
    """linear, activation, and with `use_residual` the input added again."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        wide, narrow = config["in_features"], config["out_features"]
        self.linear = torch.nn.Linear(wide, narrow, bias=config.get("bias", True))
        self.activation = _activation(config.get("activation_function", "torch.nn.modules.activation.Tanh"))
        self.residual: torch.nn.Module | None = None
        if config.get("use_residual"):
            self.residual = torch.nn.Identity() if wide == narrow else torch.nn.Linear(wide, narrow, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.activation(self.linear(vectors))
        return out if self.residual is None else out + self.residual(vectors)


class LayerNorm(torch.nn.Module):
    """torch's, under the name by which the file has its weights."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(config["dimension"])

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        normed: torch.Tensor = self.norm(vectors)
        return normed


KINDS: dict[str, Callable[[Mapping[str, Any]], torch.nn.Module]] = {
    "Dense": Dense,
    "LayerNorm": LayerNorm,
    "Normalize": lambda config: Normalize(),
}


def load_layer(kind: str, config: Mapping[str, Any], directory: Path, *, allow_pickle: bool) -> torch.nn.Module:
    """One of KINDS as its directory describes it, with its weights. Raises LoadError."""
    if config.get("module_input_name", "sentence_embedding") != "sentence_embedding":
        raise LoadError(f"{directory.name} reads {config['module_input_name']}; only sentence_embedding is supported")
    try:
        module = KINDS[kind](config)
    except KeyError as error:
        raise LoadError(f"{directory.name}/config.json has no {error.args[0]}") from error
    if any(True for _ in module.parameters()):
        try:
            module.load_state_dict(_weights(directory, allow_pickle))
        except RuntimeError as error:
            raise LoadError(f"the weights of {directory.name} do not fit its config.json") from error
    return module.float().eval()


def _weights(directory: Path, allow_pickle: bool) -> dict[str, torch.Tensor]:
    safe, pickled = directory / "model.safetensors", directory / "pytorch_model.bin"
    if not (safe.is_file() or pickled.is_file()):
        raise LoadError(f"{directory.name} has no model.safetensors")
    if not (safe.is_file() or allow_pickle):
        raise LoadError(f"{directory.name} has pickled weights only; --allow_pickle loads them, if you trust them")
    weights: dict[str, torch.Tensor] = load_file(safe) if safe.is_file() else torch.load(pickled, weights_only=True)
    return weights


def _activation(name: str) -> torch.nn.Module:
    package, _, kind = name.rpartition(".")
    found = getattr(torch.nn, kind, None) if package.startswith("torch.nn") else None
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module)):
        raise LoadError(f"a Dense module has the activation {name}; only classes of torch.nn are run")
    return found()
