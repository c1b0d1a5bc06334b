"""A model that is served: its life (download, load, warm-up, ready, unloaded) and its answers.

All that a protocol may touch. Knows no protocol, and not how a model answers: that is its service's. Everything here
runs on the event loop and only waits there; the load runs in a thread of its own.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import msgspec

from modelserve.config import Config
from modelserve.errors import InvalidRequest, ModelNotFound, ModelServeError, NotReady, RequestTooLarge
from modelserve.generation import Generated, GenerateRequest
from modelserve.runtime import metrics
from modelserve.runtime.service import Service
from modelserve.types import InferRequest, InferResponse, ModelInfo, Takes, TensorSpec

if TYPE_CHECKING:
    from modelserve.runtime.generator import Generation
    from modelserve.runtime.modality import At
    from modelserve.runtime.tools.calls import ToolReader
    from modelserve.runtime.writing import Writing

log = logging.getLogger(__name__)


class Model:
    """One model under one name."""

    def __init__(self, config: Config) -> None:
        self.name = config.model_name
        self.created = int(time.time())
        self.progress = 0.0
        self._stage = "queued"
        self._reason = "the model is not loaded yet"
        self._config = config
        self._service: Service | None = None
        self._changing = asyncio.Lock()
        """Held while the model is loaded or unloaded: two loads at once would leave the weights of one behind."""

    @property
    def ready(self) -> bool:
        return self.stage == "ready"

    @property
    def stage(self) -> str:
        """queued, download, load, warm-up, ready, draining, failed or unloaded; unavailable: loaded, and its remote
        predictor is down."""
        return "unavailable" if self._stage == "ready" and self._trouble() else self._stage

    @property
    def reason(self) -> str:
        """Why it is not ready; "" when it is."""
        return self._reason or self._trouble()

    def _trouble(self) -> str:
        return self._service.trouble() if self._service is not None else ""

    @property
    def info(self) -> ModelInfo | None:
        return self._service.info if self._service else None

    @property
    def task_name(self) -> str | None:
        return self._service.task_name if self._service else None

    @property
    def takes(self) -> Takes:
        """What a request brings it. Texts, until the model is loaded and can say."""
        return self._service.takes if self._service else "texts"

    def check_ready(self) -> None:
        """Raises NotReady unless requests are answered now."""
        self._serving()

    async def load(self) -> None:
        """Download, load and warm up, in a thread. Raises LoadError, after which the stage is `failed`."""
        async with self._changing:
            if self._service is not None:
                return
            started = time.monotonic()
            self._at("queued", 0.0)
            try:
                # A thread that ends, and libgomp's threads of it: they spin at barriers only while all of them, of
                # whatever thread, are no more than the cores. Sleeping instead, a step of one text took 38 ms, not 28.
                thread = ThreadPoolExecutor(1, "modelserve-load")
                loaded = asyncio.get_running_loop().run_in_executor(thread, _load, self._config, self._at)
                thread.shutdown(wait=False)
                self._service = await loaded
            except BaseException as error:
                self._stage = "failed"
                self._reason = error.message if isinstance(error, ModelServeError) else "loading failed"
                raise
            metrics.load_seconds.set(time.monotonic() - started)
            self._at("ready", 1.0)
        log.info("ready: %s", msgspec.json.encode(self.describe()).decode())

    async def unload(self) -> None:
        """Answer what runs, refuse what waits, free the weights."""
        async with self._changing:
            service, self._service = self._service, None
            self._at("unloaded", 0.0)
            self._reason = "it has been unloaded"
            if service is not None:
                service.close()
                await asyncio.to_thread(service.free)

    def drain(self) -> None:
        """Not ready any more; what was accepted, and what still arrives on open connections, is answered."""
        if self._stage == "ready":
            self._at("draining", 1.0)
            self._reason = "the server is shutting down"

    def close(self) -> None:
        """End the threads; whoever still waits is answered NotReady."""
        if self._service is not None:
            self._service.close()

    def busy(self) -> bool:
        return self._service is not None and self._service.busy()

    def live(self) -> bool:
        """False when a forward pass has run for --liveness_timeout or the device is lost."""
        return self._service is None or self._service.live()

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request; cancelling the caller's task frees what it holds of the queue.

        Raises InvalidRequest, RequestTooLarge, Overloaded, NotReady, InferenceFailed.
        """
        service = self._serving()
        inputs = len(request.instances)
        if not inputs:
            raise InvalidRequest("The request has no inputs; send at least one.")
        if inputs > self._config.max_client_batch_size:
            raise RequestTooLarge(
                f"The request has {inputs} inputs, at most {self._config.max_client_batch_size} are allowed "
                "(--max_client_batch_size)."
            )
        return await service.infer(request)

    @property
    def adapters(self) -> Mapping[str, str]:
        """Names, beside its own, under which it writes other texts (LoRA), and where each is from."""
        writing = self._service.writing if self._service else None
        return writing.generator.engine.limits.adapters if writing is not None else {}

    @property
    def generates(self) -> bool:
        """Whether it writes text (`generate`, `collect`, `chat_prompt`) beside answering `infer`."""
        return self._service is not None and self._service.writing is not None

    async def generate(self, request: GenerateRequest) -> Generation:
        """The text as it is written, piece by piece. Raises as `infer` does, before the first piece."""
        return await self._writing().generate(request)

    async def collect(self, request: GenerateRequest) -> tuple[Generated, InferResponse]:
        """The whole text, and the counts and times for the record. Raises as `infer` does."""
        return await self._writing().collect(request)

    async def chat_prompt(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        """The token ids that the model's chat template makes of messages; options as runtime/chat.py has them.

        Raises InvalidRequest.
        """
        return await self._writing().chat_prompt(messages, **options)

    def tool_reader(
        self, tools: list[dict[str, Any]], choice: str | dict[str, Any], *, one_call: bool = False
    ) -> ToolReader | None:
        """What reads the tool calls of one text; None where how the model writes them is not known.

        Raises InvalidRequest.
        """
        return self._writing().tool_reader(tools, choice, one_call=one_call)

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted."""
        return self._serving().count_tokens(text)

    def inputs(self) -> list[TensorSpec]:
        """V2 metadata."""
        return self._service.inputs() if self._service else []

    def outputs(self) -> list[TensorSpec]:
        """V2 metadata."""
        return self._service.outputs() if self._service else []

    def describe(self) -> dict[str, Any]:
        """What is served and how, for /info and the log."""
        if self._service is None:
            return {"model_name": self.name, "stage": self.stage, "progress": self.progress}
        return {
            "model_name": self.name,
            "task": self.task_name,
            "backend": self._service.backend_name,
            **self._service.describe(),
        }

    def _serving(self) -> Service:
        if self._service is None or self.stage not in ("ready", "draining"):
            raise NotReady(f"Model with name {self.name} is not ready: {self.reason}.", retry_after_s=5)
        return self._service

    def _writing(self) -> Writing:
        writing = self._serving().writing
        if writing is None:
            raise InvalidRequest(f"Model {self.name} writes no text; its task is {self.task_name}.", param="model")
        return writing

    def _at(self, stage: str, progress: float, *, waits_for: str = "") -> None:
        """Called from the load thread too; each assignment is atomic. A log line per stage and tenth of the way."""
        if waits_for and waits_for != self._reason:
            log.info("%s: %s %d %%: %s", self.name, stage, progress * 100, waits_for)
        elif stage != self._stage or int(progress * 10) > int(self.progress * 10):
            log.info("%s: %s %d %%", self.name, stage, progress * 100)
        self._reason = waits_for or ("" if stage == "ready" else f"{stage} in progress")
        self._stage, self.progress = stage, round(progress, 3)


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

    def writer(self, name: str, version: str | None = None) -> Model:
        """Who writes texts under this name: the model of the name, or the one that has the adapter. Raises as `get`."""
        for model in self._models.values():
            if name in model.adapters and name not in self._models:
                return self.get(model.name, version)
        return self.get(name, version)

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


def _load(config: Config, at: At) -> Service:
    """In the load thread, imports included: torch and transformers take seconds, and the port is open meanwhile."""
    at("download" if config.model_id else "load", 0.0)
    from modelserve.runtime.load import load

    return load(config, at)
