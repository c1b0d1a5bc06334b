"""A model that is served: its life (download, load, warm-up, ready, unloaded) and its answers.

All that a protocol may touch. Knows no protocol, and not whether it reads texts or rows: that is its modality's.
`infer` runs on the event loop and only waits there: texts are tokenised on the tokenizer's threads, forward passes run
on the backend's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from modelserve.config import Config
from modelserve.errors import (
    InferenceFailed,
    InvalidRequest,
    ModelNotFound,
    ModelServeError,
    NotReady,
    RequestTooLarge,
)
from modelserve.runtime import metrics
from modelserve.runtime.batcher import Batcher, Reply
from modelserve.runtime.modality import Loaded, Modality
from modelserve.runtime.pool import Pool
from modelserve.types import InferRequest, InferResponse, ModelInfo, Output, Takes, TensorSpec

log = logging.getLogger(__name__)


class Model:
    """One model under one name."""

    def __init__(self, config: Config) -> None:
        self.name = config.model_name
        self.created = int(time.time())
        self.stage = "queued"
        self.progress = 0.0
        self.reason = "the model is not loaded yet"
        self._config = config
        self._loaded: Loaded | None = None
        self._batcher: Batcher | None = None
        self._changing = asyncio.Lock()
        """Held while the model is loaded or unloaded: two loads at once would leave the weights of one behind."""
        self._short = Pool("modelserve-tokenizer", 2)
        self._long = Pool("modelserve-tokenizer-long", 1)
        self._preprocess_seconds = metrics.preprocess_seconds.labels(self.name)
        self._predict_seconds = metrics.predict_seconds.labels(self.name)
        self._postprocess_seconds = metrics.postprocess_seconds.labels(self.name)

    @property
    def ready(self) -> bool:
        return self.stage == "ready"

    @property
    def info(self) -> ModelInfo | None:
        return self._loaded.info if self._loaded else None

    @property
    def task_name(self) -> str | None:
        return self._loaded.modality.task_name if self._loaded else None

    @property
    def takes(self) -> Takes:
        """What a request brings it. Texts, until the model is loaded and can say."""
        return self._loaded.modality.takes if self._loaded else "texts"

    def check_ready(self) -> None:
        """Raises NotReady unless requests are answered now."""
        if self._loaded is None or self.stage not in ("ready", "draining"):
            raise NotReady(f"Model with name {self.name} is not ready: {self.reason}.", retry_after_s=5)

    async def load(self) -> None:
        """Download, load and warm up, in a thread. Raises LoadError, after which the stage is `failed`."""
        async with self._changing:
            if self._loaded is not None:
                return
            started = time.monotonic()
            self._at("queued", 0.0)
            try:
                self._loaded = await asyncio.to_thread(_load, self._config, self._at)
            except BaseException as error:
                self.stage = "failed"
                self.reason = error.message if isinstance(error, ModelServeError) else "loading failed"
                raise
            self._batcher = Batcher(
                self._loaded.backend, self._loaded.modality.reduce, max_queue_size=self._config.max_queue_size
            )
            metrics.load_seconds.set(time.monotonic() - started)
            self._at("ready", 1.0)
        log.info("ready: %s", msgspec.json.encode(self.describe()).decode())

    async def unload(self) -> None:
        """Answer what runs, refuse what waits, free the weights."""
        async with self._changing:
            loaded, batcher = self._loaded, self._batcher
            self._at("unloaded", 0.0)
            self.reason = "it has been unloaded"
            self._loaded = self._batcher = None
            if loaded is not None and batcher is not None:
                batcher.close()
                await asyncio.to_thread(batcher.join, self._config.shutdown_timeout)
                loaded.backend.close()

    def drain(self) -> None:
        """Not ready any more; what was accepted, and what still arrives on open connections, is answered."""
        if self.stage == "ready":
            self._at("draining", 1.0)
            self.reason = "the server is shutting down"

    def close(self) -> None:
        """End the threads; whoever still waits is answered NotReady."""
        if self._batcher is not None:
            self._batcher.close()
        self._short.close()
        self._long.close()

    def busy(self) -> bool:
        return self._batcher is not None and self._batcher.busy()

    def live(self) -> bool:
        """False when a forward pass has run for --liveness_timeout or the device is lost."""
        batcher = self._batcher
        return batcher is None or not (batcher.lost or batcher.stuck_s() > self._config.liveness_timeout)

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request; cancelling the caller's task frees what it holds of the queue.

        Raises InvalidRequest, RequestTooLarge, Overloaded, NotReady, InferenceFailed.
        """
        self.check_ready()
        loaded, batcher = self._loaded, self._batcher
        if loaded is None or batcher is None:  # check_ready has said so already
            raise NotReady(self.reason)
        inputs = len(request.instances)
        if not inputs:
            raise InvalidRequest("The request has no inputs; send at least one.")
        if inputs > self._config.max_client_batch_size:
            raise RequestTooLarge(
                f"The request has {inputs} inputs, at most {self._config.max_client_batch_size} are allowed "
                "(--max_client_batch_size)."
            )
        modality = loaded.modality
        reply = batcher.reserve(inputs)
        try:
            pool = self._long if modality.heavy(request) else self._short
            pool.submit(self._preprocess, modality, batcher, request, reply)
            outputs = await reply.future
        finally:
            batcher.release(reply)
        if modality.light(request, outputs):
            return self._respond(modality, request, reply, outputs)
        return await asyncio.to_thread(self._respond, modality, request, reply, outputs)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        self.check_ready()
        return self._loaded.modality.count_tokens(text) if self._loaded else 0

    def inputs(self) -> list[TensorSpec]:
        """V2 metadata."""
        return self._loaded.modality.inputs() if self._loaded else []

    def outputs(self) -> list[TensorSpec]:
        """V2 metadata."""
        return self._loaded.modality.outputs() if self._loaded else []

    def describe(self) -> dict[str, Any]:
        """What is served and how, for /info and the log."""
        if self._loaded is None:
            return {"model_name": self.name, "stage": self.stage, "progress": self.progress}
        backend = self._loaded.backend
        return {
            "model_name": self.name,
            "task": self.task_name,
            "backend": self._loaded.backend_name,
            **self._loaded.modality.describe(),
            "max_batch_tokens": backend.limits.max_batch_tokens,
            "max_client_batch_size": self._config.max_client_batch_size,
            "max_queue_size": self._config.max_queue_size,
            **backend.describe(),
        }

    def _at(self, stage: str, progress: float) -> None:
        """Called from the load thread too; each assignment is atomic. A log line per stage and tenth of the way."""
        if stage != self.stage or int(progress * 10) > int(self.progress * 10):
            log.info("%s: %s %d %%", self.name, stage, progress * 100)
            self.reason = "" if stage == "ready" else f"{stage} in progress"
        self.stage, self.progress = stage, round(progress, 3)

    def _preprocess(self, modality: Modality, batcher: Batcher, request: InferRequest, reply: Reply) -> None:
        """In a thread of the pool: refuse or queue the inputs."""
        if reply.cancelled:
            return
        started = time.perf_counter()
        try:
            work = modality.preprocess(request)
        except ModelServeError as error:
            reply.loop.call_soon_threadsafe(reply.fail, error)
            return
        except BaseException:  # a panic of the Rust tokenizer is no Exception; it must be answered too
            log.exception("preprocessing failed")
            failed = InferenceFailed("the server failed on this request before the model saw it")
            reply.loop.call_soon_threadsafe(reply.fail, failed)
            return
        reply.timings.tokenization_s = time.perf_counter() - started
        batcher.put(work, reply)

    def _respond(
        self, modality: Modality, request: InferRequest, reply: Reply, outputs: Sequence[Output]
    ) -> InferResponse:
        """Outputs to the answer in the wanted form, and the times into the metrics."""
        started = time.perf_counter()
        response = modality.respond(request, reply.work, outputs, reply.timings)
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


class Models:
    """What this server serves. One model today; the protocols ask by name."""

    def __init__(self, models: Sequence[Model]) -> None:
        self._models = {model.name: model for model in models}
        self.draining = False
        self.others_ready: Callable[[], bool] = lambda: True
        """Whether the other worker processes behind the same port are ready too, as long as that matters."""

    def get(self, name: str, version: str | None = None) -> Model:
        """Raises ModelNotFound for another name, an unloaded model, or a version other than 1."""
        model = self._models.get(name)
        if model is None or model.stage == "unloaded":
            raise ModelNotFound(f"Model with name {name} does not exist.")
        if version not in (None, "", "1"):
            raise ModelNotFound(f"Model {name} has no version {version}; the only version is 1.")
        return model

    def find(self, name: str) -> Model:
        """Also an unloaded one, to load it again. Raises ModelNotFound."""
        if name not in self._models:
            raise ModelNotFound(f"Model with name {name} does not exist.")
        return self._models[name]

    def names(self) -> list[str]:
        return [name for name, model in self._models.items() if model.stage != "unloaded"]

    def index(self) -> list[Model]:
        return list(self._models.values())

    def live(self) -> bool:
        return all(model.live() for model in self._models.values())

    def ready(self) -> bool:
        return (
            not self.draining
            and self.live()
            and all(model.ready for model in self._models.values())
            and self.others_ready()
        )


def _load(config: Config, at: Callable[[str, float], None]) -> Loaded:
    """In the load thread, imports included: torch and transformers take seconds, and the port is open meanwhile."""
    at("download" if config.model_id else "load", 0.0)
    from modelserve.runtime.load import load

    return load(config, at)
