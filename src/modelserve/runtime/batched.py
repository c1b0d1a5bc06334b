"""A model whose answers come from forward passes that requests share: the pools that prepare, the batcher, the answer.

Knows no protocol, and not whether it reads texts or rows: that is its modality's. `infer` runs on the event loop and
only waits there: texts are tokenised on the tokenizer's threads, forward passes run on the backend's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from modelserve.config import Config
from modelserve.errors import InferenceFailed, ModelServeError
from modelserve.runtime import metrics
from modelserve.runtime.batcher import Batcher, Reply
from modelserve.runtime.modality import Loaded
from modelserve.runtime.pool import Pool
from modelserve.types import InferRequest, InferResponse, ModelInfo, Output, TensorSpec

if TYPE_CHECKING:
    from modelserve.runtime.writing import Writing

log = logging.getLogger(__name__)


class Batched:
    """Fulfils runtime/service.py's Service."""

    info: ModelInfo | None
    writing: Writing | None = None

    def __init__(self, loaded: Loaded, config: Config) -> None:
        self.modality = loaded.modality
        self.takes = loaded.modality.takes
        self.task_name = loaded.modality.task_name
        self.info = loaded.info
        self.backend_name = loaded.backend_name
        self._backend = loaded.backend
        self._trouble = loaded.trouble
        self._config = config
        self._batcher = Batcher(loaded.backend, loaded.modality.reduce, max_queue_size=config.max_queue_size)
        self._short = Pool("modelserve-tokenizer", 2)
        self._long = Pool("modelserve-tokenizer-long", 1)
        self._preprocess_seconds = metrics.preprocess_seconds.labels(config.model_name)
        self._predict_seconds = metrics.predict_seconds.labels(config.model_name)
        self._postprocess_seconds = metrics.postprocess_seconds.labels(config.model_name)

    async def infer(self, request: InferRequest) -> InferResponse:
        modality = self.modality
        reply = self._batcher.reserve(len(request.instances))
        try:
            pool = self._long if modality.heavy(request) else self._short
            pool.submit(self._preprocess, request, reply)
            outputs = await reply.future
        finally:
            self._batcher.release(reply)
        if modality.light(request, outputs):
            return self._respond(request, reply, outputs)
        return await asyncio.to_thread(self._respond, request, reply, outputs)

    def count_tokens(self, text: str) -> int:
        return self.modality.count_tokens(text)

    def inputs(self) -> list[TensorSpec]:
        return self.modality.inputs()

    def outputs(self) -> list[TensorSpec]:
        return self.modality.outputs()

    def describe(self) -> dict[str, Any]:
        return {
            **self.modality.describe(),
            "max_batch_tokens": self._backend.limits.max_batch_tokens,
            "max_client_batch_size": self._config.max_client_batch_size,
            "max_queue_size": self._config.max_queue_size,
            **self._backend.describe(),
        }

    def busy(self) -> bool:
        return self._batcher.busy()

    def trouble(self) -> str:
        return self._trouble()

    def live(self) -> bool:
        stuck = not self._backend.limits.bounded and self._batcher.stuck_s() > self._config.liveness_timeout
        return not (self._batcher.lost or stuck)

    def close(self) -> None:
        self._batcher.close()
        self._short.close()
        self._long.close()

    def free(self) -> None:
        self._batcher.join(self._config.shutdown_timeout)
        self._backend.close()

    def _preprocess(self, request: InferRequest, reply: Reply) -> None:
        """In a thread of the pool: refuse or queue the inputs."""
        if reply.cancelled:
            return
        started = time.perf_counter()
        try:
            work = self.modality.preprocess(request)
        except ModelServeError as error:
            reply.loop.call_soon_threadsafe(reply.fail, error)
            return
        except BaseException:  # a panic of the Rust tokenizer is no Exception; it must be answered too
            log.exception("preprocessing failed")
            failed = InferenceFailed("the server failed on this request before the model saw it")
            reply.loop.call_soon_threadsafe(reply.fail, failed)
            return
        reply.timings.tokenization_s = time.perf_counter() - started
        self._batcher.put(work, reply)

    def _respond(self, request: InferRequest, reply: Reply, outputs: Sequence[Output]) -> InferResponse:
        """Outputs to the answer in the wanted form, and the times into the metrics."""
        started = time.perf_counter()
        response = self.modality.respond(request, reply.work, outputs, reply.timings)
        reply.timings.postprocess_s = time.perf_counter() - started
        self._measure(response)
        return response

    def _measure(self, response: InferResponse) -> None:
        timings = response.timings
        self._preprocess_seconds.observe(timings.tokenization_s)
        self._predict_seconds.observe(timings.queue_s + timings.inference_s)
        self._postprocess_seconds.observe(timings.postprocess_s)
        metrics.tokenization_seconds.observe(timings.tokenization_s)
        metrics.queue_seconds.observe(timings.queue_s)
        metrics.inference_seconds.observe(timings.inference_s)
        metrics.tokens.inc(sum(response.tokens))
        if response.tokens_dropped:
            metrics.tokens_truncated.inc(response.tokens_dropped)
