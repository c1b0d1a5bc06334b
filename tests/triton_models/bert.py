"""BERT's forward pass in NumPy on the weights of a transformers directory, for the tests' Triton models.

There in tenths of a second, where PyTorch and transformers take five seconds of a process each. Runs in Triton's
process of a model; knows nothing of Triton.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from scipy.special import erf

Array = np.ndarray


class Bert:
    """A BertFor… of any of the four tasks."""

    def __init__(self, directory: Path, task: str) -> None:
        self._config: dict[str, Any] = json.loads((directory / "config.json").read_text())
        self._task = task
        loaded = safetensors.numpy.load_file(directory / "model.safetensors")
        self._weights = {name.removeprefix("bert."): values for name, values in loaded.items()}

    def __call__(self, ids: Array, mask: Array, types: Array) -> Array:
        """float32: logits [B, C] or [B, L, C], or hidden states [B, L, H]."""
        states = self._states(ids, mask, types)
        if self._task == "text_embedding":
            return states
        if self._task == "sequence_classification":
            return self._dense("classifier", np.tanh(self._dense("pooler.dense", states[:, 0])))
        if self._task == "token_classification":
            return self._dense("classifier", states)
        head = "cls.predictions"
        states = self._norm(f"{head}.transform.LayerNorm", _gelu(self._dense(f"{head}.transform.dense", states)))
        return states @ self._weights["embeddings.word_embeddings.weight"].T + self._weights[f"{head}.bias"]

    def _states(self, ids: Array, mask: Array, types: Array) -> Array:
        words, positions, kinds = (
            self._weights[f"embeddings.{name}_embeddings.weight"] for name in ("word", "position", "token_type")
        )
        states = self._norm("embeddings.LayerNorm", words[ids] + positions[: ids.shape[1]] + kinds[types])
        hidden = np.where(mask == 0, np.finfo(np.float32).min, np.float32(0))[:, None, None, :]
        for layer in range(self._config["num_hidden_layers"]):
            name = f"encoder.layer.{layer}"
            attended = self._dense(
                f"{name}.attention.output.dense", self._attention(f"{name}.attention", states, hidden)
            )
            states = self._norm(f"{name}.attention.output.LayerNorm", attended + states)
            inner = _gelu(self._dense(f"{name}.intermediate.dense", states))
            states = self._norm(f"{name}.output.LayerNorm", self._dense(f"{name}.output.dense", inner) + states)
        return states

    def _attention(self, name: str, states: Array, hidden: Array) -> Array:
        heads = self._config["num_attention_heads"]
        rows, length, width = states.shape
        query, key, value = (
            self._dense(f"{name}.self.{part}", states).reshape(rows, length, heads, -1).transpose(0, 2, 1, 3)
            for part in ("query", "key", "value")
        )
        scores = query @ key.transpose(0, 1, 3, 2) / np.float32(np.sqrt(width // heads)) + hidden
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ value).transpose(0, 2, 1, 3).reshape(rows, length, width)

    def _dense(self, name: str, values: Array) -> Array:
        return values @ self._weights[f"{name}.weight"].T + self._weights[f"{name}.bias"]

    def _norm(self, name: str, values: Array) -> Array:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + self._config["layer_norm_eps"])
        return scaled * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def _gelu(values: Array) -> Array:
    return values * np.float32(0.5) * (1 + erf(values / np.float32(np.sqrt(2))))
