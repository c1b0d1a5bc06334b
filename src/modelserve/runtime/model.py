"""A model that is served: its life (download, load, warm-up, ready, unloaded) and its answers.

All that a protocol may touch. Knows no protocol. `infer` runs on the event loop and only waits there: texts are
tokenised on the tokenizer's threads, forward passes run on the backend's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

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
from modelserve.runtime.excerpt import characters
from modelserve.runtime.pool import Pool
from modelserve.tasks import raw
from modelserve.tasks.base import States, Task
from modelserve.types import Encoding, InferRequest, InferResponse, ModelInfo, Output, Params, TensorSpec

if TYPE_CHECKING:
    from modelserve.runtime.load import Loaded

log = logging.getLogger(__name__)

_SHORT_CHARS = 100_000
"""Longer requests are tokenised on a thread of their own: 10 MB take seconds, and short ones never wait for them."""
_INLINE_TEXTS = 32
"""More texts than these are shaped on a thread: the event loop must answer a health probe in between."""
_NOTHING_ASKED = Params()
"""Parameters may ask for more than the outputs' size tells: 500 words for each of 8 masks take 0.2 s to decode."""


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
    def task(self) -> Task | None:
        return self._loaded.task if self._loaded else None

    @property
    def task_name(self) -> str | None:
        return self._loaded.task.name if self._loaded else None

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
            self._batcher = Batcher(self._loaded.backend, self._reduce, max_queue_size=self._config.max_queue_size)
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
        texts = len(request.instances)
        if not texts:
            raise InvalidRequest("The request has no inputs; send at least one.")
        if texts > self._config.max_client_batch_size:
            raise RequestTooLarge(
                f"The request has {texts} inputs, at most {self._config.max_client_batch_size} are allowed "
                "(--max_client_batch_size)."
            )
        reply = batcher.reserve(texts)
        try:
            pool = self._short if _characters(request) <= _SHORT_CHARS else self._long
            pool.submit(self._preprocess, loaded, batcher, request, reply)
            outputs = await reply.future
        finally:
            batcher.release(reply)
        small = texts <= _INLINE_TEXTS and sum(getattr(o, "nbytes", 0) for o in outputs) < 65536
        if small and request.params == _NOTHING_ASKED:
            return self._respond(loaded, request, reply, outputs)
        return await asyncio.to_thread(self._respond, loaded, request, reply, outputs)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        self.check_ready()
        return len(self._loaded.tokenizer.ids(text)) if self._loaded else 0

    def inputs(self) -> list[TensorSpec]:
        """V2 metadata."""
        if self._loaded is None:
            return []
        return [
            TensorSpec("input-0", "BYTES", (-1,)),
            TensorSpec("input_ids", "INT64", (-1, -1)),
            TensorSpec("attention_mask", "INT64", (-1, -1)),
        ]

    def outputs(self) -> list[TensorSpec]:
        """V2 metadata: the task's outputs, and what input_ids are answered with."""
        if self._loaded is None:
            return []
        return [*self._loaded.task.output_specs(), raw.spec(self._loaded.task, self._loaded.info)]

    def describe(self) -> dict[str, Any]:
        """What is served and how, for /info and the log."""
        if self._loaded is None:
            return {"model_name": self.name, "stage": self.stage, "progress": self.progress}
        info = self._loaded.info
        return {
            "model_name": self.name,
            "model_id": self._config.model_id or str(info.path),
            "revision": info.revision,
            "task": self._loaded.task.name,
            "backend": self._loaded.backend_name,
            "max_length": info.max_length,
            "max_batch_tokens": self._loaded.backend.limits.max_batch_tokens,
            "max_client_batch_size": self._config.max_client_batch_size,
            "max_queue_size": self._config.max_queue_size,
            **self._loaded.backend.describe(),
        }

    def _at(self, stage: str, progress: float) -> None:
        """Called from the load thread too; each assignment is atomic. A log line per stage and tenth of the way."""
        if stage != self.stage or int(progress * 10) > int(self.progress * 10):
            log.info("%s: %s %d %%", self.name, stage, progress * 100)
            self.reason = "" if stage == "ready" else f"{stage} in progress"
        self.stage, self.progress = stage, round(progress, 3)

    def _preprocess(self, loaded: Loaded, batcher: Batcher, request: InferRequest, reply: Reply) -> None:
        """In a tokenizer thread: refuse or queue the texts."""
        if reply.cancelled:
            return
        started = time.perf_counter()
        try:
            if request.raw:
                encodings = raw.preprocess(request.instances, loaded.tokenizer)
                size = raw.answer_bytes(loaded.task, encodings, request.raw_length)
            else:
                encodings = loaded.task.preprocess(request.instances, request.params)
                size = loaded.task.answer_bytes(encodings, request.params)
            self._check_answer(size)
        except ModelServeError as error:
            reply.loop.call_soon_threadsafe(reply.fail, error)
            return
        except BaseException:  # a panic of the Rust tokenizer is no Exception; it must be answered too
            log.exception("preprocessing failed")
            reply.loop.call_soon_threadsafe(reply.fail, InferenceFailed("the tokenizer failed on this request"))
            return
        reply.timings.tokenization_s = time.perf_counter() - started
        batcher.put(encodings, reply)

    def _check_answer(self, size: int) -> None:
        """Raises RequestTooLarge for an answer that the process might not survive: the whole vocabulary for thousands
        of masks, hidden states for thousands of texts."""
        limit = self._config.answer_limit
        if size > limit:
            raise RequestTooLarge(
                f"The answer would take about {size} bytes of memory, at most {limit} are allowed (--answer_limit); "
                "send fewer texts or ask for less of each."
            )

    def _reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        """In a backend thread, once per batch."""
        task = self._loaded.task if self._loaded else None
        if task is None:
            raise NotReady(self.reason)
        raws = sum(encoding.raw for encoding in encodings)
        if not raws:
            return task.reduce(states, encodings)
        network = raw.reduce(task, states, encodings)
        if raws == len(encodings):
            return network
        return [n if e.raw else t for n, t, e in zip(network, task.reduce(states, encodings), encodings, strict=True)]

    def _respond(self, loaded: Loaded, request: InferRequest, reply: Reply, outputs: Sequence[Output]) -> InferResponse:
        """Outputs to the answer in the wanted form, and the times into the metrics."""
        started = time.perf_counter()
        task, params, encodings = loaded.task, request.params, reply.encodings
        response = InferResponse(
            model_name=self.name,
            id=request.id,
            tokens=[len(encoding) for encoding in encodings],
            tokens_dropped=sum(encoding.dropped for encoding in encodings),
            timings=reply.timings,
        )
        if request.raw:
            response.outputs.extend(raw.outputs(task, outputs, request.raw_length))
        else:
            values = [task.postprocess(o, e, params) for o, e in zip(outputs, encodings, strict=True)]
            if request.form == "tensors":
                response.outputs.extend(task.outputs(values, encodings, params))
            else:
                response.predictions.extend(task.predictions(values, encodings, params))
                response.outputs.extend(task.extra_outputs(values, encodings, params))
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


def _characters(request: InferRequest) -> int:
    """Of all that a tokenizer's thread has to read."""
    return sum(map(characters, request.instances)) + sum(map(len, request.params.targets or ()))
