"""A model of features: how it is loaded, and how rows become work and outputs an answer.

A request's rows are one piece of work. The loaders run in the load thread and log every choice; no torch is imported.
Knows no protocol, no queue and no library of models.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from modelserve.backends.base import Backend
from modelserve.backends.mlflow import MlflowBackend
from modelserve.backends.sklearn import SklearnBackend
from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError, ModelServeError
from modelserve.runtime.formats import estimator_file, mlflow_directory
from modelserve.runtime.modality import DOWNLOADED, At, Loaded, check_answer
from modelserve.tasks.base import Answer, Estimate
from modelserve.tasks.prediction import Prediction
from modelserve.types import (
    InferRequest,
    InferResponse,
    Output,
    Params,
    Rows,
    Signature,
    Takes,
    TensorSpec,
    Timings,
)

log = logging.getLogger(__name__)

_SHORT_ROWS = 1000
"""Larger requests are read on a thread of their own: columns of texts are walked through in Python."""
_INLINE_NUMBERS = 2000
"""Larger answers are shaped on a thread: the event loop must answer a health probe in between."""


class Tables:
    """Rows of features, for a model that predicts."""

    takes: Takes = "rows"

    def __init__(self, config: Config, path: Path, task: Prediction, signature: Signature) -> None:
        self.task_name = task.name
        self._config = config
        self._path = path
        self._task = task
        self._inputs = list(signature.inputs)
        self._outputs = task.output_specs()

    def heavy(self, request: InferRequest) -> bool:
        return len(request.instances) > _SHORT_ROWS

    def preprocess(self, request: InferRequest) -> list[Rows]:
        if not isinstance(request.instances, Rows):
            raise InvalidRequest("the model reads rows of features, not texts")
        rows = self._task.preprocess(request.instances, request.params, request.wanted)
        check_answer(self._task.answer_bytes(rows), self._config.answer_limit)
        return [rows]

    def reduce(self, states: Estimate, work: Sequence[Rows]) -> list[Output]:
        return self._task.reduce(states, work)

    def light(self, request: InferRequest, outputs: Sequence[Output]) -> bool:
        answers: dict[str, Answer] = outputs[0]
        return sum(answer.size for answer in answers.values()) <= _INLINE_NUMBERS

    def respond(
        self, request: InferRequest, work: Sequence[Rows], outputs: Sequence[Output], timings: Timings
    ) -> InferResponse:
        (output,) = outputs
        tensors = request.form == "tensors"
        return InferResponse(
            model_name=request.model_name,
            id=request.id,
            predictions=[] if tensors else self._task.predictions(output),
            outputs=self._task.outputs(output) if tensors else [],
            timings=timings,
            content_type=self._task.content_type(output),
            chosen=self._task.by_method,
        )

    def count_tokens(self, text: str) -> int:
        return 0

    def inputs(self) -> list[TensorSpec]:
        return self._inputs

    def outputs(self) -> list[TensorSpec]:
        return self._outputs

    def describe(self) -> dict[str, Any]:
        return {"model_dir": str(self._path)}

    def warm_up(self, backend: Backend[Rows, Estimate], signature: Signature) -> None:
        """Ask for every output once. The first call of many a model imports or compiles something; and what comes
        back says what the outputs are, which no file does."""
        if signature.sample is None:
            return
        found: list[TensorSpec] = []
        for method in signature.methods:
            try:
                asked = self._task.preprocess(signature.sample, Params(), (method,))
                (output,) = backend.forward([asked], self.reduce)
            except ModelServeError as error:
                log.info("%s was not warmed up: %s", method, error.message)
            except Exception as error:  # of the model's own; a caller's input may be answered nonetheless
                log.info("%s was not warmed up: it failed on a sample (%s)", method, error)
            else:
                found += self._task.learn(method, output)
        if found:
            self._outputs = found


def load_sklearn(config: Config, path: Path, at: At) -> Loaded:
    """Raises LoadError."""
    return _load(config, "sklearn", SklearnBackend, estimator_file(path), at)


def load_mlflow(config: Config, path: Path, at: At) -> Loaded:
    """Raises LoadError."""
    return _load(config, "mlflow", MlflowBackend, mlflow_directory(path), at)


def _load(config: Config, name: str, kind: type[SklearnBackend | MlflowBackend], path: Path, at: At) -> Loaded:
    at("load", DOWNLOADED)
    for flag, fits in (("task", None), ("dtype", None), ("backend", "auto")):
        if (given := getattr(config, flag)) != fits:
            raise LoadError(f"--{flag} {given} is for Hugging Face models, and {path} is one of {name}; leave it away")
    if config.device == "cuda":
        raise LoadError(f"--device cuda: {path} is a model of {name}, which runs on the CPU; take --device auto or cpu")
    backend = kind(path, allow_pickle=config.allow_pickle, threads=config.threads, max_rows=config.max_batch_tokens)
    signature = backend.signature
    if config.return_probabilities and "predict_proba" not in signature.methods:
        log.warning("--return_probabilities has no effect: the model has %s only", ", ".join(signature.methods))
    tables = Tables(config, path, Prediction(config, signature), signature)
    at("warm-up", 0.8)
    tables.warm_up(backend, signature)
    return Loaded(tables, backend, name)
