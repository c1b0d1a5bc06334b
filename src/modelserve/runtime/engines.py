"""Which engine writes, and why; and what every builder of one shares.

A builder is a row of `registry.ENGINES`: from a model's files to an engine (backends/engine.py). Knows no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelserve.backends.engine import Engine
from modelserve.config import Config
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import ModelInfo


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, loaded and ready."""

    engine: Engine
    how: str
    """How it runs and why so, in some words for the log and /info."""


def choose(config: Config, info: ModelInfo, task_name: str) -> tuple[str, str]:
    """A row of `registry.ENGINES`, and why it: --backend, or what auto finds."""
    if config.backend != "auto":
        return config.backend, "--backend says so"
    return "huggingface", "it runs every architecture"


def end_ids(said: object, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a text: those of the generation config's eos_token_id, else the tokenizer's end token."""
    found = said if isinstance(said, list) else [said]
    known = [id for id in found if isinstance(id, int)]
    own = tokenizer.loaded.eos_token_id
    return frozenset(known or ([own] if isinstance(own, int) else []))
