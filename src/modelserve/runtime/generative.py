"""From a model's files to one that writes: the engine that runs it, and what stands around it.

Which engine is chosen in runtime/engines.py, and said in the log and /info with the reason. Blocking; runs in the load
thread. Knows no protocol.
"""

from __future__ import annotations

import logging
from pathlib import Path

from modelserve import registry
from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.chat import Chat
from modelserve.runtime.engines import Built, choose
from modelserve.runtime.files import Files
from modelserve.runtime.generator import Generator
from modelserve.runtime.grammar import Grammars
from modelserve.runtime.modality import At
from modelserve.runtime.tokenizer import load_tokenizer
from modelserve.runtime.vocabulary import Vocabulary
from modelserve.runtime.writing import Writing
from modelserve.types import ModelInfo

log = logging.getLogger(__name__)


def load(config: Config, files: Files, info: ModelInfo, task_name: str, at: At) -> Writing:
    """Raises LoadError."""
    tokenizer = load_tokenizer(config, files, info)
    at("load", 0.5)
    name, why = choose(config, info, task_name)
    log.info("backend %s: %s", name, why)
    built: Built = registry.load(registry.ENGINES[name])(config, info, task_name, tokenizer, at)
    log.info("engine: %s", built.how)
    engine = built.engine
    generator = Generator(
        engine,
        tokenizer,
        Vocabulary(tokenizer.loaded),
        Grammars(tokenizer.loaded, tokenizer.rows, frozenset(engine.end_ids)),
        max_queue_size=config.max_queue_size,
        max_choices=config.max_client_batch_size,
    )
    chat = Chat(
        tokenizer.loaded,
        template=_template(config.chat_template),
        trust_request_template=config.trust_request_chat_template,
    )
    return Writing(config, info, task_name, name, f"{built.how} ({why})", generator, chat)


def _template(given: str | None) -> str | None:
    """The text of --chat_template: a file's, or itself where it looks like a template. Raises LoadError."""
    if given is None or "{" in given:
        return given
    try:
        return Path(given).expanduser().read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise LoadError(f"--chat_template {given} cannot be read ({error}); give a Jinja file or a template") from error
