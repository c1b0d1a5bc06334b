"""The engine on transformers: the batcher of our own where the architecture fits it, else `generate` in static batches.

Which of the two is found out by a check at load. Blocking; runs in the load thread. Knows no protocol.
"""

from __future__ import annotations

from typing import Any

import torch

from modelserve.backends.cores import cores
from modelserve.backends.decoder import Decoder
from modelserve.backends.engine import Engine
from modelserve.backends.flat import NotFlat
from modelserve.backends.pretrained import dtype_name, find_device, load_pretrained
from modelserve.backends.static import StaticEngine
from modelserve.config import Config
from modelserve.runtime.engines import Built, end_ids, iterating, max_running
from modelserve.runtime.heads import missing_head
from modelserve.runtime.modality import At
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import ModelInfo

AUTO_CLASSES = {"text_generation": "AutoModelForCausalLM", "text2text_generation": "AutoModelForSeq2SeqLM"}


def build(config: Config, info: ModelInfo, task_name: str, tokenizer: Tokenizer, at: At) -> Built:
    """Raises LoadError."""
    device = find_device(config.device)
    if device.type == "cpu":
        torch.set_num_threads(config.threads or cores())
    model = load_pretrained(
        info.path,
        AUTO_CLASSES[task_name],
        dtype_name(config.dtype, device),
        config.trust_remote_code,
        config.allow_pickle,
        lambda keys: missing_head(keys, task_name),
    ).to(device)
    at("warm-up", 0.8)
    ends = end_ids(model.generation_config.eos_token_id, tokenizer)
    return Built(*_engine(config, model, task_name, info.max_length, ends))


def _engine(config: Config, model: Any, task_name: str, context: int, ends: frozenset[int]) -> tuple[Engine, str]:
    """The engine, and which one it is and why."""
    why = "an encoder-decoder"
    if task_name == "text_generation":
        try:
            decoder = Decoder(model)
        except NotFlat as reason:
            why = str(reason)
        else:
            return iterating(config, decoder, ends, context), "texts join and leave between steps"
    static = StaticEngine(
        model,
        end_ids=ends,
        context_length=context,
        max_running=max_running(config, model.device.type),
        kv_bytes=config.kv_cache_memory_bytes,
        threads=config.threads or cores(),
    )
    return static, f"static batches: {why}"
