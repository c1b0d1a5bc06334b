"""What Triton's Python backend runs in place of an ONNX backend, which the tests' Triton lacks: the `model.onnx` beside
this file, with ONNX Runtime.

Copied there as `model.py`. Runs in Triton's process of the model; tests/triton_models/model.py tells why tensors go by
DLPack.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # first: our packages are on the path from here on (tests/triton.py)

# isort: split
import numpy as np
import onnxruntime


class TritonPythonModel:
    """The class that the backend looks for. It calls `execute` with one request, or several with dynamic batching."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._inputs: list[str] = [one["name"] for one in config["input"]]
        self._outputs: list[str] = [one["name"] for one in config["output"]]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        file = Path(__file__).with_name("model.onnx")
        self._session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [triton.InferenceResponse(self._answers(request)) for request in requests]

    def _answers(self, request: Any) -> list[Any]:
        given = {name: np.from_dlpack(triton.get_input_tensor_by_name(request, name)) for name in self._inputs}
        made = self._session.run(self._outputs, given)
        return [
            triton.Tensor.from_dlpack(name, np.ascontiguousarray(values))
            for name, values in zip(self._outputs, made, strict=True)
        ]
