"""A remote predictor over V1: instances of named id lists, as KServe's transformers send them to TensorFlow Serving.

V1 says nothing of a model's tensors: they are sent as named, INT64, and the answer is taken for the network's own
numbers. Blocking; several threads may ask at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import numpy as np

from modelserve.backends.remote_answer import most_bytes, numbers_of
from modelserve.backends.remote_failure import absent, failure
from modelserve.backends.remote_http import Http
from modelserve.backends.remote_model import headers_of
from modelserve.errors import PredictorDown, PredictorFailed
from modelserve.types import Array, Caller, Tensor


class _Predicted(msgspec.Struct):
    predictions: list[Any]


class _State(msgspec.Struct):
    """KServe's `ready`, a text or a truth; TensorFlow Serving's states of versions."""

    ready: Any = None
    model_version_status: list[dict[str, Any]] | None = None

    @property
    def is_ready(self) -> bool:
        if self.model_version_status is not None:
            return any(one.get("state") == "AVAILABLE" for one in self.model_version_status)
        return self.ready is None or str(self.ready).lower() == "true"


class V1:
    """Fulfils remote_model.Predictor."""

    def __init__(self, http: Http, name: str) -> None:
        self._http = http
        self._name = name
        self._path = f"/v1/models/{quote(name, safe='')}"

    def describe(self) -> None:
        status, headers, body = self._http.look("GET", self._path)
        if status == 404:
            raise absent(self._http.where, self._name, None)
        if status != 200:
            raise failure(self._http.where, status, headers, body)
        try:
            state = msgspec.json.decode(body, type=_State)
        except (msgspec.DecodeError, RecursionError) as error:
            raise PredictorFailed(f"what the remote predictor says of {self._name} is not V1's ({error})") from error
        if not state.is_ready:
            raise PredictorDown(f"the remote predictor at {self._http.where} is not ready for {self._name}")

    def infer(self, inputs: Sequence[Tensor], output: str, numbers: int, caller: Caller, timeout_s: float) -> Tensor:
        columns = {tensor.name: np.asarray(tensor.data).tolist() for tensor in inputs}
        instances = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        status, headers, body = self._http.ask(
            "POST",
            f"{self._path}:predict",
            body=msgspec.json.encode({"instances": instances}),
            headers=headers_of(caller) | {"content-type": "application/json"},
            timeout_s=timeout_s,
            most=most_bytes(numbers),
        )
        if status != 200:
            raise failure(self._http.where, status, headers, body)
        try:
            predictions = msgspec.json.decode(body, type=_Predicted).predictions
            values: Array = numbers_of([_numbers(one, output) for one in predictions]).astype(np.float32)
        except (msgspec.DecodeError, ValueError, TypeError, RecursionError) as error:
            raise PredictorFailed(f"the remote predictor's answer cannot be read ({error})") from error
        return Tensor(output, "FP32", values.shape, values)

    def close(self) -> None:
        self._http.close()


def _numbers(prediction: Any, output: str) -> Any:
    """Of one text: a list of numbers, or an object that has one under the output's name, or one alone."""
    if not isinstance(prediction, dict):
        return prediction
    if output in prediction:
        return prediction[output]
    if len(prediction) == 1:
        return next(iter(prediction.values()))
    raise ValueError(f"a prediction has {', '.join(prediction)}, and {output} was asked for")
