"""From the parameters to a model that can answer: where its files are, which format they have, and who loads that.

Blocking; runs in the load thread. Knows no protocol and no format.
"""

from __future__ import annotations

import logging
from pathlib import Path

from modelserve import registry
from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import remote
from modelserve.runtime.batched import Batched
from modelserve.runtime.formats import model_format
from modelserve.runtime.modality import DOWNLOADED, At, Loaded
from modelserve.runtime.service import Service

log = logging.getLogger(__name__)


def load(config: Config, at: At) -> Service:
    """Raises LoadError, with the one sentence that a user needs."""
    if config.backend == "vllm":
        registry.load("modelserve.runtime.engine_vllm:check")(config)  # seconds, and a download may take an hour
    path = _here(config, at)
    name = model_format(config, path)
    if name != "huggingface":
        if config.predictor_host is not None:
            raise LoadError(f"--predictor_host is for Hugging Face models, and the files are {name}'s")
        log.info("format %s%s", name, "" if config.model_format else " (from the files)")
    loaded: Loaded | Service = registry.load(registry.FORMATS[name])(config, path, at)
    return Batched(loaded, config) if isinstance(loaded, Loaded) else loaded


def _here(config: Config, at: At) -> Path | None:
    """--model_dir on this machine, brought here where it is elsewhere; None for a model id, which its loader brings."""
    if config.model_id is not None:
        return None
    if remote.is_fetched(config.model_dir):
        return remote.fetch(config.model_dir, lambda fraction: at("download", DOWNLOADED * fraction))
    return Path(config.model_dir).expanduser()
