"""A generative model at work: the service of the tasks text_generation and text2text_generation.

Writes text piece by piece (`generate`), whole (`collect`), and as the answer of V1 and V2 (`infer`: a text in, a text
out). Knows no protocol. Runs on the event loop; prompts are prepared on the pool's threads.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from modelserve.config import Config
from modelserve.errors import InferenceFailed, InvalidRequest, ModelServeError
from modelserve.generation import Generated, GenerateRequest, Sampling
from modelserve.runtime import metrics
from modelserve.runtime.chat import Chat
from modelserve.runtime.generator import Generation, Generator
from modelserve.runtime.pool import Pool
from modelserve.types import (
    InferRequest,
    InferResponse,
    ModelInfo,
    Params,
    Takes,
    Tensor,
    TensorSpec,
    TextPair,
    TokenIds,
)

T = TypeVar("T")

_SAMPLING = (
    "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty",
)  # fmt: skip
"""Request parameters that are fields of Sampling."""
_KNOWN = frozenset({*_SAMPLING, "max_tokens", "max_new_tokens", "stop"})
_MAX_TOKENS = 256
"""Of V1's and V2's answers where the request does not say: as transformers' pipeline."""


class Writing:
    """Fulfils runtime/service.py's Service."""

    takes: Takes = "texts"

    def __init__(
        self, config: Config, info: ModelInfo, task_name: str, backend_name: str, generator: Generator, chat: Chat
    ) -> None:
        self.task_name = task_name
        self.info: ModelInfo | None = info
        self.backend_name = backend_name
        self.writing: Writing | None = self
        self.generator = generator
        self.chat = chat
        self._config = config
        self._info = info
        self._pool = Pool("modelserve-prompts", 2)
        self._predict_seconds = metrics.predict_seconds.labels(config.model_name)

    async def generate(self, request: GenerateRequest) -> Generation:
        return await self.generator.generate(request, self.prepare)

    async def collect(self, request: GenerateRequest) -> tuple[Generated, InferResponse]:
        generated, response = await self.generator.collect(request, self.prepare)
        self._predict_seconds.observe(response.timings.queue_s + response.timings.inference_s)
        return generated, response

    async def chat_prompt(self, messages: list[dict[str, Any]], **options: Any) -> list[int]:
        return await self.prepare(lambda: self.chat.ids(messages, **options))

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
            except BaseException as error:  # a panic of the Rust tokenizer is no Exception; it must be answered too
                failed = InferenceFailed("the server failed on this request before the model saw it")
                failed.__cause__ = error
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
            "max_num_seqs": limits.max_running,
            "max_client_batch_size": self._config.max_client_batch_size,
            "max_queue_size": self._config.max_queue_size,
            **self.generator.engine.describe(),
        }

    def busy(self) -> bool:
        return self.generator.busy()

    def live(self) -> bool:
        engine = self.generator.engine
        return not (engine.lost or engine.stuck_s() > self._config.liveness_timeout)

    def close(self) -> None:
        self.generator.close()
        self._pool.close()

    def free(self) -> None:
        """The engine's `close` has waited for its step."""


def sampling_of(params: Params, task: str) -> Sampling:
    """V1's and V2's request parameters. Greedy where nothing is said, as transformers' `generate`.

    Raises InvalidRequest for a value out of its range and for a parameter that means nothing to the task.
    """
    given = {name: value for name in params.__struct_fields__ if (value := getattr(params, name)) is not None}
    for name in given:
        if name not in _KNOWN:
            raise InvalidRequest(f"{name} means nothing to the task {task}", param=name)
    fields = {name: given[name] for name in _SAMPLING if name in given}
    stop = given.get("stop", ())
    return checked(
        Sampling(
            **{"temperature": 0.0, **fields},
            max_tokens=given.get("max_tokens", given.get("max_new_tokens", _MAX_TOKENS)),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
    )


_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 2**31), "min_tokens": (0, 2**31), "temperature": (0, 2), "top_p": (0, 1), "top_k": (-1, 2**31),
    "min_p": (0, 1), "seed": (-(2**63), 2**63 - 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
    "repetition_penalty": (1e-6, 1e6),
}  # fmt: skip


def checked(sampling: Sampling) -> Sampling:
    """It. Raises InvalidRequest for a value out of its range."""
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{name} is {value}; it must be between {low:g} and {high:g}", param=name)
    if any(not stop for stop in sampling.stop):
        raise InvalidRequest("stop has an empty text, which would end everything at once", param="stop")
    return sampling
