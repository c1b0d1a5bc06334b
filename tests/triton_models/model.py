"""What Triton's Python backend runs for each of the tests' models: a transformers directory's own forward pass, with
the fault that the model's configuration asks for.

Runs in Triton's process of the model, which has this checkout's packages on its path; `triton_python_backend_utils`
is that process's own. `__init__.py` writes the configuration.

Tensors go in and out by DLPack: nvidia-pytriton's Python backend is built against NumPy 1, and with NumPy 2 `as_numpy`
gives wrong numbers and `Tensor(name, array)` a tensor of no bytes.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import triton_python_backend_utils as triton  # first: our packages are on the path from here on (tests/triton.py)

# isort: split
import numpy as np

Array = np.ndarray
DTYPES = {"FP32": np.float32, "FP16": np.float16, "FP64": np.float64}


class TritonPythonModel:
    """The class that the backend looks for. It calls `execute` with one request, or several with dynamic batching."""

    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self._given: dict[str, Any] = json.loads(config["parameters"]["given"]["string_value"])
        self._network = _network(Path(self._given["directory"]), self._given["task"], self._given["network"])

    def execute(self, requests: list[Any]) -> list[Any]:
        return [triton.InferenceResponse([self._answer(request, len(requests))]) for request in requests]

    def _answer(self, request: Any, beside: int) -> Any:
        given = self._given
        ids = self._input(request, "input_ids")
        with Path(given["seen"]).open("a") as seen:  # one write: several copies may have the file open
            tensors = sorted(tensor.name() for tensor in request.inputs())
            seen.write(
                json.dumps({"shape": ids.shape, "id": request.request_id(), "inputs": tensors, "beside": beside}) + "\n"
            )
        if given["refuses"] is not None and (ids == given["refuses"]).any():
            raise ValueError(f"token {given['refuses']} is not for this model")
        if given["slow_id"] is None or (ids == given["slow_id"]).any():
            time.sleep(given["delay_s"])  # the load of a large network
        rows = np.atleast_2d(ids)
        answer = self._network(
            rows,
            np.atleast_2d(self._input(request, "attention_mask", np.ones_like(rows))),
            np.atleast_2d(self._input(request, "token_type_ids", np.zeros_like(rows))),
        )
        answer = _spoilt(answer, given["answers"])
        answer = answer if ids.ndim > 1 else answer[0]
        return _tensor(given["output_name"], answer.astype(DTYPES[given["output"]]))

    def _input(self, request: Any, name: str, otherwise: Array | None = None) -> Array:
        tensor = triton.get_input_tensor_by_name(request, self._given["names"][name])
        return otherwise if tensor is None and otherwise is not None else np.from_dlpack(tensor).astype(np.int64)


def _spoilt(answer: Array, how: str) -> Array:
    return {
        "right": answer,
        "a text less": answer[:-1],
        "a text more": np.concatenate((answer, answer[:1])),
        "a class less": answer[..., :-1],
        "a dimension more": answer[..., None],
    }[how]


def _tensor(name: str, values: Array) -> Any:
    return triton.Tensor.from_dlpack(name, np.ascontiguousarray(values))


def _network(directory: Path, task: str, by: str) -> Any:
    if by == "numpy":
        import bert  # beside this file, in Triton's repository

        return bert.Bert(directory, task)
    import torch
    import transformers

    torch.set_num_threads(1)
    auto = {
        "sequence_classification": transformers.AutoModelForSequenceClassification,
        "token_classification": transformers.AutoModelForTokenClassification,
        "fill_mask": transformers.AutoModelForMaskedLM,
        "text_embedding": transformers.AutoModel,
    }
    network = auto[task].from_pretrained(directory).eval()
    typed = network.config.to_dict().get("type_vocab_size", 0) > 1

    def forward(ids: Array, mask: Array, types: Array) -> Array:
        tensors = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
        if typed:
            tensors["token_type_ids"] = torch.tensor(types)
        with torch.inference_mode():
            answer: Array = network(**tensors)[0].numpy()
        return answer

    return forward
