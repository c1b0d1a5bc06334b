"""From a model's files to one that writes: the weights, the engine that runs them, and what stands around it.

Which engine is found out here, and said in the log and /info with the reason. Blocking; runs in the load thread. Knows
no protocol.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from modelserve.backends.cores import cores
from modelserve.backends.decoder import Decoder
from modelserve.backends.engine import Engine
from modelserve.backends.flat import NotFlat
from modelserve.backends.pretrained import dtype_name, find_device, load_pretrained
from modelserve.backends.static import StaticEngine
from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.chat import Chat
from modelserve.runtime.files import Files
from modelserve.runtime.generator import Generator
from modelserve.runtime.grammar import Grammars
from modelserve.runtime.heads import missing_head
from modelserve.runtime.iteration import IterationEngine
from modelserve.runtime.modality import At
from modelserve.runtime.tokenizer import Tokenizer, load_tokenizer
from modelserve.runtime.vocabulary import Vocabulary
from modelserve.runtime.writing import Writing
from modelserve.types import ModelInfo

log = logging.getLogger(__name__)

AUTO_CLASSES = {"text_generation": "AutoModelForCausalLM", "text2text_generation": "AutoModelForSeq2SeqLM"}
MAX_RUNNING = {"cpu": 32, "cuda": 256}
"""Texts written at once where --max_num_seqs is not given."""


def load(config: Config, files: Files, info: ModelInfo, task_name: str, at: At) -> Writing:
    """Raises LoadError."""
    tokenizer = load_tokenizer(config, files, info)
    at("load", 0.5)
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
    ends = _ends(model, tokenizer)
    engine, reason = _engine(config, model, task_name, info.max_length, ends)
    log.info("engine: %s", reason)
    vocabulary = Vocabulary(tokenizer.loaded)
    generator = Generator(
        engine,
        tokenizer,
        vocabulary,
        Grammars(tokenizer.loaded, tokenizer.rows, ends),
        max_queue_size=config.max_queue_size,
        max_choices=config.max_client_batch_size,
    )
    chat = Chat(
        tokenizer.loaded,
        template=_template(config.chat_template),
        trust_request_template=config.trust_request_chat_template,
    )
    return Writing(config, info, task_name, "huggingface", reason, generator, chat)


def _engine(config: Config, model: Any, task_name: str, context: int, ends: frozenset[int]) -> tuple[Engine, str]:
    """The engine, and which one it is and why."""
    running = config.max_num_seqs or MAX_RUNNING[model.device.type]
    why = "an encoder-decoder"
    if task_name == "text_generation":
        try:
            decoder = Decoder(model)
        except NotFlat as reason:
            why = str(reason)
        else:
            memory = config.kv_cache_memory_bytes
            engine = IterationEngine(
                decoder,
                end_ids=ends,
                context_length=context,
                max_running=running,
                kv_tokens=None if memory is None else memory // decoder.bytes_per_token,
                threads=config.threads or cores(),
            )
            return engine, "texts join and leave between steps"
    static = StaticEngine(
        model,
        end_ids=ends,
        context_length=context,
        max_running=running,
        kv_bytes=config.kv_cache_memory_bytes,
        threads=config.threads or cores(),
    )
    return static, f"static batches: {why}"


def _ends(model: Any, tokenizer: Tokenizer) -> frozenset[int]:
    """The tokens that end a text: those that `generate` would stop at, else the tokenizer's end token."""
    said = model.generation_config.eos_token_id
    found = said if isinstance(said, list) else [said]
    known = [id for id in found if isinstance(id, int)]
    own = tokenizer.loaded.eos_token_id
    return frozenset(known or ([own] if isinstance(own, int) else []))


def _template(given: str | None) -> str | None:
    """The text of --chat_template: a file's, or itself where it looks like a template. Raises LoadError."""
    if given is None or "{" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"--chat_template {given} cannot be read ({error}); give a Jinja file or a template") from error
