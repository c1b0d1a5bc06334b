"""A generative model at work: the service of the tasks text_generation and text2text_generation.

Writes text piece by piece (`generate`), whole (`collect`), and as the answer of V1 and V2 (`infer`: a text in, a text
out). Knows no protocol. Runs on the event loop; prompts are prepared on the pool's threads.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any, TypeVar

from modelserve.config import Config
from modelserve.errors import InferenceFailed, InvalidRequest, ModelServeError
from modelserve.generation import Generated, GenerateRequest
from modelserve.runtime import metrics
from modelserve.runtime.asked import USUAL_TOKENS, sampling_of
from modelserve.runtime.chat import Chat
from modelserve.runtime.generator import Generation, Generator
from modelserve.runtime.meter import Meter
from modelserve.runtime.pool import Pool
from modelserve.runtime.tools.calls import ToolReader
from modelserve.runtime.tools.formats import detect
from modelserve.runtime.tools.formats import reader as tool_reader
from modelserve.types import (
    InferRequest,
    InferResponse,
    ModelInfo,
    Takes,
    Tensor,
    TensorSpec,
    TextPair,
    TokenIds,
)

log = logging.getLogger(__name__)
T = TypeVar("T")


class Writing:
    """Fulfils runtime/service.py's Service."""

    takes: Takes = "texts"

    def __init__(
        self,
        config: Config,
        info: ModelInfo,
        task_name: str,
        backend_name: str,
        engine_reason: str,
        generator: Generator,
        chat: Chat,
    ) -> None:
        """engine_reason: which engine writes, and why."""
        self.task_name = task_name
        self.info: ModelInfo | None = info
        self.backend_name = backend_name
        self.writing: Writing | None = self
        self.generator = generator
        self.chat = chat
        self._config = config
        self._engine_reason = engine_reason
        self._tool_format = config.tool_call_parser or detect(chat.template)
        self._info = info
        self._pool = Pool("modelserve-prompts", 2)
        Meter.declare(config.model_name)
        self._predict_seconds = metrics.predict_seconds.labels(config.model_name)

    async def generate(self, request: GenerateRequest) -> Generation:
        return await self.generator.generate(request, self.prepare)

    async def collect(self, request: GenerateRequest) -> tuple[Generated, InferResponse]:
        generated, response = await self.generator.collect(request, self.prepare)
        self._predict_seconds.observe(response.timings.queue_s + response.timings.inference_s)
        return generated, response

    async def chat_prompt(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        return await self.prepare(lambda: self.chat.ids(messages, **options))

    def tool_reader(
        self, tools: list[dict[str, Any]], choice: str | dict[str, Any], *, one_call: bool = False
    ) -> ToolReader | None:
        """A new reader of one text's tool calls; None where how the model writes them is not known.

        choice: auto, required, or OpenAI's object that names one. one_call: where calls are required, one is. Raises
        InvalidRequest.
        """
        return tool_reader(self._tool_format, tools, choice, one_call=one_call)

    async def infer(self, request: InferRequest) -> InferResponse:
        if not isinstance(request.instances, list):
            raise InvalidRequest("the model reads texts, not rows of features")
        if request.raw:
            raise InvalidRequest(
                f"the task {self.task_name} answers texts with texts; send a BYTES input", param="input_ids"
            )
        prompts: list[str | list[int]] = []
        for instance in request.instances:
            if isinstance(instance, TextPair):
                raise InvalidRequest(f"the task {self.task_name} takes single texts, not pairs of texts")
            prompts.append(instance.ids if isinstance(instance, TokenIds) else instance)
        asked = GenerateRequest(
            model_name=request.model_name,
            prompts=prompts,
            sampling=sampling_of(request.params, self.task_name),
            usual_tokens=USUAL_TOKENS,
            id=request.id,
            api=request.api,
        )
        generated, counted = await self.collect(asked)
        texts = [choice.text for choice in generated.choices]
        response = InferResponse(
            model_name=request.model_name, id=request.id, tokens=counted.tokens, timings=counted.timings
        )
        if request.form == "tensors":
            data = [text.encode() for text in texts]
            response.outputs.append(Tensor("output-0", "BYTES", (len(texts),), data))
        else:
            response.predictions.extend(texts)
        return response

    async def prepare(self, work: Callable[[], T]) -> T:
        """The work's result, from a thread of the pool. Raises what it raises, in our words."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def settle(result: T | None, error: ModelServeError | None) -> None:
            if done.cancelled():
                return
            if error is not None:
                done.set_exception(error)
            else:
                done.set_result(result)  # type: ignore[arg-type]  # None is the result then

        def call() -> None:
            result, failed = None, None
            try:
                result = work()
            except ModelServeError as error:
                failed = error
            except BaseException:  # a panic of the Rust tokenizer is no Exception; it must be answered too
                log.exception("preparing a text failed")
                failed = InferenceFailed("the server failed on this request before the model saw it")
            loop.call_soon_threadsafe(settle, result, failed)

        self._pool.submit(call)
        return await done

    def count_tokens(self, text: str) -> int:
        return len(self.generator.tokenizer.ids(text))

    def inputs(self) -> list[TensorSpec]:
        return [TensorSpec("input-0", "BYTES", (-1,))]

    def outputs(self) -> list[TensorSpec]:
        return [TensorSpec("output-0", "BYTES", (-1,))]

    def describe(self) -> dict[str, Any]:
        limits = self.generator.engine.limits
        return {
            "model_id": self._config.model_id or str(self._info.path),
            "revision": self._info.revision,
            "max_length": limits.context_length,
            "engine": self._engine_reason,
            "max_num_seqs": limits.max_running,
            "max_client_batch_size": self._config.max_client_batch_size,
            "max_queue_size": self._config.max_queue_size,
            **self.generator.engine.describe(),
        }

    def busy(self) -> bool:
        return self.generator.busy()

    def trouble(self) -> str:
        return ""

    def live(self) -> bool:
        engine = self.generator.engine
        return not (engine.lost or engine.stuck_s() > self._config.liveness_timeout)

    def close(self) -> None:
        self.generator.close()
        self._pool.close()

    def free(self) -> None:
        self.generator.engine.join(self._config.shutdown_timeout)
