"""A Hugging Face model of texts: how it is loaded, and how texts become encodings and outputs an answer.

`load` runs in the load thread. Knows no protocol and no queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from modelserve import registry
from modelserve.backends.base import Backend
from modelserve.config import Config
from modelserve.errors import InvalidRequest
from modelserve.runtime.excerpt import characters
from modelserve.runtime.files import Files
from modelserve.runtime.heads import encoder_class, missing_head
from modelserve.runtime.modality import At, Loaded, check_answer
from modelserve.runtime.tokenizer import Tokenizer, load_tokenizer
from modelserve.tasks import raw
from modelserve.tasks.base import States, Task
from modelserve.types import (
    Encoding,
    InferRequest,
    InferResponse,
    Instance,
    ModelInfo,
    Output,
    Params,
    Takes,
    TensorSpec,
    Timings,
)

_SHORT_CHARS = 100_000
"""Longer requests are tokenised on a thread of their own: 10 MB take seconds, and short ones never wait for them."""
_INLINE_TEXTS, _INLINE_BYTES = 32, 65536
"""More than these is shaped on a thread: the event loop must answer a health probe in between."""
_NOTHING_ASKED = Params()
"""Parameters may ask for more than the outputs' size tells: 500 words for each of 8 masks take 0.2 s to decode."""


class Texts:
    """Texts that are tokenised, for one of the encoders' tasks."""

    takes: Takes = "texts"

    def __init__(
        self, config: Config, info: ModelInfo, task: Task, tokenizer: Tokenizer, *, tells_callers: bool = False
    ) -> None:
        """tells_callers: the backend wants to know whose texts they are."""
        self.task_name = task.name
        self._tells_callers = tells_callers
        self._config = config
        self._info = info
        self._task = task
        self._tokenizer = tokenizer

    def heavy(self, request: InferRequest) -> bool:
        words = request.params.targets or ()
        return sum(map(characters, _texts(request))) + sum(map(len, words)) > _SHORT_CHARS

    def preprocess(self, request: InferRequest) -> list[Encoding]:
        instances = _texts(request)
        if request.raw:
            encodings = raw.preprocess(instances, self._tokenizer)
            size = raw.answer_bytes(self._task, encodings, request.raw_length)
        else:
            encodings = self._task.preprocess(instances, request.params)
            size = self._task.answer_bytes(encodings, request.params)
        check_answer(size, self._config.answer_limit)
        return [replace(one, caller=request.caller) for one in encodings] if self._tells_callers else encodings

    def reduce(self, states: States, work: Sequence[Encoding]) -> list[Output]:
        raws = sum(encoding.raw for encoding in work)
        if not raws:
            return self._task.reduce(states, work)
        network = raw.reduce(self._task, states, work)
        if raws == len(work):
            return network
        return [n if e.raw else t for n, t, e in zip(network, self._task.reduce(states, work), work, strict=True)]

    def light(self, request: InferRequest, outputs: Sequence[Output]) -> bool:
        small = len(outputs) <= _INLINE_TEXTS and sum(getattr(o, "nbytes", 0) for o in outputs) < _INLINE_BYTES
        return small and request.params == _NOTHING_ASKED

    def respond(
        self, request: InferRequest, work: Sequence[Encoding], outputs: Sequence[Output], timings: Timings
    ) -> InferResponse:
        task, params = self._task, request.params
        response = InferResponse(
            model_name=request.model_name,
            id=request.id,
            tokens=[len(encoding) for encoding in work],
            tokens_dropped=sum(encoding.dropped for encoding in work),
            timings=timings,
        )
        if request.raw:
            response.outputs.extend(raw.outputs(task, outputs, request.raw_length))
        else:
            values = [task.postprocess(o, e, params) for o, e in zip(outputs, work, strict=True)]
            if request.form == "tensors":
                response.outputs.extend(task.outputs(values, work, params))
            else:
                response.predictions.extend(task.predictions(values, work, params))
                response.outputs.extend(task.extra_outputs(values, work, params))
        return response

    def count_tokens(self, text: str) -> int:
        return len(self._tokenizer.ids(text))

    def inputs(self) -> list[TensorSpec]:
        specs = [
            TensorSpec("input-0", "BYTES", (-1,)),
            TensorSpec("input_ids", "INT64", (-1, -1)),
            TensorSpec("attention_mask", "INT64", (-1, -1)),
        ]
        return [*specs, TensorSpec("token_type_ids", "INT64", (-1, -1))] if self._tokenizer.gives_types else specs

    def outputs(self) -> list[TensorSpec]:
        """The task's outputs, and what input_ids are answered with."""
        return [*self._task.output_specs(), raw.spec(self._task, self._info)]

    def describe(self) -> dict[str, Any]:
        return {
            "model_id": self._config.model_id or str(self._info.path),
            "revision": self._info.revision,
            "max_length": self._info.max_length,
        }


def load(config: Config, files: Files, info: ModelInfo, task_name: str, at: At) -> Loaded:
    """An encoder with the head for its task. Raises LoadError."""
    tokenizer = load_tokenizer(config, files, info)
    task: Task = registry.load(registry.TASKS[task_name])(config, info, tokenizer)
    at("load", 0.6)
    backend_name = "huggingface" if config.backend == "auto" else config.backend
    backend: Backend[Encoding, States] = registry.load(registry.BACKENDS[backend_name])(
        info.path,
        auto_class=encoder_class(task_name, task.auto_class, info.config.get("model_type")),
        head=task.head,
        max_length=info.max_length,
        device=config.device,
        dtype=config.dtype,
        threads=config.threads,
        max_batch_tokens=config.max_batch_tokens,
        trust_remote_code=config.trust_remote_code,
        allow_pickle=config.allow_pickle,
        missing=lambda keys: missing_head(keys, task_name),
        progress=lambda fraction: at("warm-up" if fraction >= 0.5 else "load", 0.6 + 0.4 * fraction),
    )
    return Loaded(Texts(config, info, task, tokenizer), backend, backend_name, info)


def _texts(request: InferRequest) -> list[Instance]:
    if isinstance(request.instances, list):
        return request.instances
    raise InvalidRequest("the model reads texts, not rows of features")
