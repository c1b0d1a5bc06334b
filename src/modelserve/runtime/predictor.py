"""A Hugging Face model whose network runs on another server: how it is reached, waited for and loaded.

Only the model's configuration and tokenizer are here. Blocking; runs in the load thread. Knows no queue.
"""

from __future__ import annotations

import logging
import time
from dataclasses import replace

from modelserve import registry
from modelserve.backends.remote import RemoteBackend
from modelserve.backends.remote_http import Http, tls
from modelserve.backends.remote_model import Predictor, RemoteModel, fixed_length
from modelserve.config import Config
from modelserve.errors import LoadError, ModelServeError
from modelserve.predictor import TENSORS, address, sent_as
from modelserve.runtime import metrics
from modelserve.runtime.files import Files
from modelserve.runtime.modality import At, Loaded
from modelserve.runtime.texts import Texts
from modelserve.runtime.tokenizer import load_tokenizer
from modelserve.tasks.base import Task
from modelserve.types import ModelInfo

log = logging.getLogger(__name__)

_SOON_S, _LATEST_S = 0.2, 5.0
"""Between two tries to reach the predictor at the start: the first, and the longest, each twice the one before."""


def load(config: Config, files: Files, info: ModelInfo, task_name: str, at: At) -> Loaded:
    """Waits for a predictor that is not there yet. Raises LoadError where it has no such model, or another one."""
    names = sent_as(config.tensor_input_names)
    predictor = _connect(config)
    try:
        model = _await(predictor, config, at)
        info = _fitting(config, info, fixed_length(model, names))
        tokenizer = load_tokenizer(config, files, info)
        task: Task = registry.load(registry.TASKS[task_name])(config, info, tokenizer)
        padding = info.config.get("pad_token_id")
        backend = RemoteBackend(
            predictor,
            model,
            head=task.head,
            width=task.width,
            longest=info.max_length,
            pad_id=padding if isinstance(padding, int) else 0,
            names=names,
            usual=TENSORS if tokenizer.gives_types else TENSORS[:2],
            max_batch_size=config.predictor_max_batch_size,
            max_batch_tokens=config.max_batch_tokens,
            # Nobody waits longer for an answer than --request_timeout.
            timeout_s=min(config.predictor_request_timeout_seconds, config.request_timeout),
            retries=config.predictor_request_retries,
            health_check=config.enable_predictor_health_check,
            about={"predictor_host": config.predictor_host, "predictor_protocol": config.predictor_protocol},
            observe=_observe,
        )
    except BaseException:
        predictor.close()
        raise
    texts = Texts(config, info, task, tokenizer, tells_callers=True)
    return Loaded(texts, backend, "remote", info, trouble=backend.trouble)


def _connect(config: Config) -> Predictor:
    host, port = address(str(config.predictor_host), ssl=config.predictor_use_ssl)
    if config.predictor_protocol == "grpc-v2":
        from modelserve.backends.remote_grpc import GrpcV2, credentials  # grpc is 10 MiB, and may not be served

        secure = credentials(config.predictor_ca_file) if config.predictor_use_ssl else None
        return GrpcV2(host, port, config.model_name, credentials=secure, most=config.answer_limit)
    http = Http(host, port, tls=tls(config.predictor_ca_file) if config.predictor_use_ssl else None)
    if config.predictor_protocol == "v1":
        from modelserve.backends.remote_v1 import V1

        return V1(http, config.model_name)
    from modelserve.backends.remote_v2 import V2

    return V2(http, config.model_name)


def _await(predictor: Predictor, config: Config, at: At) -> RemoteModel | None:
    """What the predictor says of the model, once it is there."""
    pause = _SOON_S
    while True:
        try:
            return predictor.describe()
        except LoadError:
            raise
        except ModelServeError as error:
            at("load", 0.5, waits_for=error.message)
        time.sleep(pause)  # for another server, which nobody here can be told of
        pause = min(_LATEST_S, 2 * pause)


def _fitting(config: Config, info: ModelInfo, length: int | None) -> ModelInfo:
    """With no longer texts than the predictor takes. Raises LoadError where --max_length asks for them."""
    if length is None or length >= info.max_length:
        return info
    if config.max_length is not None:
        raise LoadError(
            f"--max_length is {config.max_length}, and the remote predictor takes {length} tokens of every text; "
            f"give at most {length}"
        )
    log.info("texts have at most %d tokens: the remote predictor takes no others", length)
    return replace(info, max_length=length)


def _observe(outcome: str, seconds: float) -> None:
    metrics.predictor_seconds.labels(outcome).observe(seconds)
