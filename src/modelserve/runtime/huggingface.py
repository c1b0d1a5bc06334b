"""A Hugging Face model, from the parameters to one that answers: its files, what they say of it, and who loads it then.

Runs in the load thread and logs every choice. torch and transformers are imported by what is called here and not
before, so that the port is open and tells its progress while they are, and so that what their libraries read of the
environment can be set for the task. Knows no protocol and no queue.
"""

from __future__ import annotations

import linecache
import logging
import os
import platform
from pathlib import Path

from modelserve.config import Config
from modelserve.errors import ConfigError
from modelserve.registry import TASKS
from modelserve.runtime.engines import check_task
from modelserve.runtime.files import resolve
from modelserve.runtime.heads import GENERATIVE
from modelserve.runtime.info import inspect
from modelserve.runtime.modality import DOWNLOADED, At, Loaded
from modelserve.runtime.service import Service

log = logging.getLogger(__name__)


def load(config: Config, path: Path | None, at: At) -> Loaded | Service:
    """path: --model_dir on this machine, None for a model id. Raises LoadError."""
    files = resolve(config, lambda fraction: at("download" if config.model_id else "load", DOWNLOADED * fraction), path)
    at("load", DOWNLOADED)
    info, task_name = inspect(files, config)
    log.info("task %s%s", task_name, "" if config.task else " (from the model's architecture)")
    if config.predictor_host is None and config.tensor_input_names:
        log.warning("--tensor_input_names means nothing without --predictor_host")
    if task_name in GENERATIVE:
        if config.predictor_host is not None:
            raise ConfigError(f"--predictor_host is for the tasks {', '.join(TASKS)}, and the task is {task_name}")
        # Threads that spin between the many small operations of a step take the core of whoever wants it: 5 tokens/s
        # instead of 100 on a busy machine. What bounds libgomp's is GOMP_SPINCOUNT (environment.py); this is for where
        # that is not set, and for other OpenMPs. Read when torch is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        # oneDNN compiles a product for each number of rows, and keeps 1024 of them in either cache: 400 MiB that a
        # server of a tiny model grew by in a minute. Steps of up to 32 texts want some 160 of them.
        _keep_compiled("256")
        _import_torch()
        from modelserve.runtime import generative

        return generative.load(config, files, info, task_name, at)
    check_task(config, task_name)
    if config.predictor_host is not None:
        _import_torch()
        from modelserve.runtime import predictor

        return predictor.load(config, files, info, task_name, at)
    if config.dtype in (None, "auto", "float32") and platform.machine() in ("x86_64", "AMD64"):
        # oneDNN does GELU alone there, which it compiles in half a millisecond for each number of tokens that a pass
        # has: 1024 of them in either cache are 15 MiB, and a pass takes a hundred milliseconds.
        _keep_compiled("16")
    _import_torch()
    from modelserve.runtime import texts

    return texts.load(config, files, info, task_name, at)


def _keep_compiled(most: str) -> None:
    """oneDNN's cache and that of PyTorch's layer over it. Read when torch is loaded."""
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", most)
    os.environ.setdefault("LRU_CACHE_CAPACITY", most)


def _import_torch() -> None:
    """Before transformers does, and without the lines that it reads of its own sources meanwhile, for its compiler, and
    Python keeps: the imports after it find room where those were, and the server is 4 MiB smaller."""
    import torch  # noqa: F401

    linecache.clearcache()
