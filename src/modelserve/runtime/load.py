"""From the parameters to a model that can answer: files, task, tokenizer, weights, warm-up; every choice is logged.

Blocking; runs in the load thread. Knows no protocol. torch and transformers are imported here, not before, so that the
port is open and tells its progress while they are.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from modelserve import registry
from modelserve.backends.base import Backend
from modelserve.config import Config
from modelserve.runtime.files import resolve
from modelserve.runtime.heads import missing_head
from modelserve.runtime.info import inspect
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.tasks.base import Task
from modelserve.types import ModelInfo

log = logging.getLogger(__name__)

At = Callable[[str, float], None]
"""Told the stage and the fraction of the whole start that is done."""

_DOWNLOADED = 0.4
"""Share of the bar that a download has; a directory that is there skips it at once."""


_ENCODER_AND_DECODER = ("t5", "mt5", "umt5")
"""Model types of which AutoModel loads both halves, and an embedding reads the encoder's only (sentence-t5, gtr-t5)."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer."""

    info: ModelInfo
    task: Task
    tokenizer: Tokenizer
    backend: Backend
    backend_name: str


def load(config: Config, at: At) -> Loaded:
    """Raises LoadError, with the one sentence that a user needs."""
    files = resolve(config, lambda fraction: at("download" if config.model_id else "load", _DOWNLOADED * fraction))
    at("load", _DOWNLOADED)
    info, task_name = inspect(files, config)
    log.info("task %s%s", task_name, "" if config.task else " (from the model's architecture)")
    tokenizer = Tokenizer(
        files.tokenizer,
        max_length=info.max_length,
        keep_case=config.disable_lower_case,
        lower_case=info.lower_case,
        special_tokens=not config.disable_special_tokens,
        type_ids=config.return_token_type_ids,
        rows=info.config.get("vocab_size"),
        types=info.config.get("type_vocab_size"),
        trust_remote_code=config.trust_remote_code,
    )
    task: Task = registry.load(registry.TASKS[task_name])(config, info, tokenizer)
    at("load", 0.6)
    encoder_only = task_name == "text_embedding" and info.config.get("model_type") in _ENCODER_AND_DECODER
    backend_name = "huggingface" if config.backend == "auto" else config.backend
    backend: Backend = registry.load(registry.BACKENDS[backend_name])(
        info.path,
        auto_class="AutoModelForTextEncoding" if encoder_only else task.auto_class,
        head=task.head,
        max_length=info.max_length,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        max_batch_tokens=config.max_batch_tokens,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        missing=lambda keys: missing_head(keys, task_name),
        progress=lambda fraction: at("warm-up" if fraction >= 0.5 else "load", 0.6 + 0.4 * fraction),
    )
    return Loaded(info, task, tokenizer, backend, backend_name)
