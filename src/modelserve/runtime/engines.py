"""Which engine writes, and why; and what every builder of one shares.

A builder is a row of `registry.ENGINES`: from a model's files to an engine (backends/engine.py). Knows no protocol.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelserve import registry
from modelserve.backends.engine import Engine
from modelserve.config import Config
from modelserve.errors import ConfigError, LoadError
from modelserve.runtime import conversions
from modelserve.runtime.weights import read_json
from modelserve.types import ModelInfo

if TYPE_CHECKING:
    from modelserve.backends.steps import Steps
    from modelserve.runtime.iteration import IterationEngine
    from modelserve.runtime.tokenizer import Tokenizer

_MAX_RUNNING = {"cpu": 32, "cuda": 256}
_WRITERS = ("vllm", "openvino")
"""Backends without forward passes of encoders."""


@dataclass(frozen=True, slots=True)
class Built:
    """An engine, loaded and ready."""

    engine: Engine
    how: str
    """How it runs and why so, in some words for the log and /info."""


def choose(config: Config, info: ModelInfo, task_name: str) -> tuple[str, str]:
    """A row of `registry.ENGINES`, and why it: --backend, or what auto finds.

    Raises ConfigError for vLLM's flags where it is not vLLM.
    """
    if config.backend != "auto":
        chosen, why = config.backend, "--backend says so"
    else:
        chosen, why = _found(config, info, task_name)
    if config.vllm_args and chosen != "vllm":
        raise ConfigError(
            f"{_first_flag(config)} belongs to the vllm backend, and the backend is {chosen} ({why}); give "
            "--backend vllm, or leave it out"
        )
    return chosen, why


def check_task(config: Config, task_name: str) -> None:
    """For a task of forward passes. Raises ConfigError for a backend that only writes."""
    given = f"--backend {config.backend}" if config.backend in _WRITERS else _first_flag(config)
    if given:
        raise ConfigError(
            f"{given} is for models that write text, and the task is {task_name}; leave it out, or say "
            "--task text_generation where the model does that"
        )


def _first_flag(config: Config) -> str:
    """Of vLLM's, "" where there is none. Without its value, which may be a secret."""
    return config.vllm_args.partition(" ")[0].partition("=")[0]


def _found(config: Config, info: ModelInfo, task_name: str) -> tuple[str, str]:
    """What auto takes. Nothing of a backend is imported that is not asked about this model."""
    if conversions.read(info.path) is not None:
        return "openvino", "the model is a conversion for it"
    import torch

    if config.device != "cpu" and torch.cuda.is_available():
        if config.workers > 1:
            return "huggingface", "there is a GPU, and --workers would start as many vLLM servers"
        refusal: str | None
        try:
            refusal = registry.load("modelserve.runtime.engine_vllm:refusal")(config, info)
        except LoadError as error:
            refusal = error.message
        if refusal is None:
            return "vllm", "there is a GPU, and vLLM has the architecture"
        return "huggingface", f"there is a GPU, but {refusal}"
    if task_name == "text_generation":
        converted: Path | None = registry.load("modelserve.runtime.engine_openvino:converted")(config, info)
        if converted is not None:
            return "openvino", "there is a conversion of it that passed its check, and no GPU"
    return "huggingface", "it runs every architecture"


def iterating(config: Config, decoder: Steps, ends: frozenset[int], context: int) -> IterationEngine:
    """The engine of our own over a model's steps. Raises LoadError where there is no memory for a text."""
    from modelserve.backends.cores import cores
    from modelserve.runtime.iteration import IterationEngine

    memory = config.kv_cache_memory_bytes
    return IterationEngine(
        decoder,
        end_ids=ends,
        context_length=context,
        max_running=max_running(config, decoder.device.type),
        kv_tokens=None if memory is None else memory // decoder.bytes_per_token,
        threads=config.threads or cores(),
    )


def max_running(config: Config, device: str) -> int:
    """Texts written at once; device: cpu or cuda."""
    return config.max_num_seqs or _MAX_RUNNING[device]


def said_ends(info: ModelInfo) -> object:
    """eos_token_id of generation_config.json, which wins over config.json as it does in transformers. Raises
    LoadError."""
    file = info.path / "generation_config.json"
    said = read_json(file) if file.is_file() else {}
    own = said.get("eos_token_id") if isinstance(said, dict) else None
    return info.config.get("eos_token_id") if own is None else own


def end_ids(said: object, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a text: those of the generation config's eos_token_id, else the tokenizer's end token."""
    found = said if isinstance(said, list) else [said]
    known = [id for id in found if isinstance(id, int)]
    own = tokenizer.loaded.eos_token_id
    return frozenset(known or ([own] if isinstance(own, int) else []))
