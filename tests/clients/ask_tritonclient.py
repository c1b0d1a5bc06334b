"""Ask a server with tritonclient, over HTTP and gRPC; print what came back as JSON. Runs where tritonclient is.

ask_tritonclient.py HTTP_PORT GRPC_PORT MODEL TEXTS (a JSON list)
"""

from __future__ import annotations

import json
import sys
from itertools import product
from typing import Any

import numpy as np
import tritonclient.grpc
import tritonclient.http
from tritonclient.utils import InferenceServerException

HTTP_PORT, GRPC_PORT, MODEL = sys.argv[1:4]
TEXTS = json.loads(sys.argv[4])


def plain(array: np.ndarray) -> list[Any]:
    if array.dtype == object:
        return [one.decode() if isinstance(one, bytes) else one for one in array.ravel()]
    return array.tolist()


def as_input(library: Any, name: str, values: np.ndarray, datatype: str, **kwargs: Any) -> Any:
    tensor = library.InferInput(name, list(values.shape), datatype)
    tensor.set_data_from_numpy(values, **kwargs)
    return tensor


def told(function: Any, *args: Any) -> list[str]:
    """Status and message of the error that a call ends in."""
    try:
        function(*args)
    except InferenceServerException as error:
        return [error.status() or "", error.message() or ""]
    raise AssertionError("no error")


def common(library: Any, client: Any, **kwargs: Any) -> dict[str, Any]:
    """What both clients are asked in the same way. kwargs: of set_data_from_numpy."""
    texts = np.array([text.encode() for text in TEXTS], dtype=object)
    metadata = client.get_model_metadata(MODEL, **({"as_json": True} if library is tritonclient.grpc else {}))

    def infer(array: np.ndarray, **options: Any) -> Any:
        return client.infer(MODEL, [as_input(library, "input-0", array, "BYTES", **kwargs)], **options)

    first = infer(texts, request_id="t1")
    answer = first.get_response(as_json=True) if library is tritonclient.grpc else first.get_response()
    return {
        "live": client.is_server_live(),
        "ready": client.is_server_ready(),
        "model_ready": client.is_model_ready(MODEL),
        "model_ready_version": client.is_model_ready(MODEL, "1"),
        "metadata": metadata,
        "id": answer["id"],
        "texts": plain(first.as_numpy("output-0")),
        "column": plain(infer(texts.reshape(-1, 1)).as_numpy("output-0")),
        "unknown_model": told(lambda: client.infer("nope", [as_input(library, "input-0", texts, "BYTES", **kwargs)])),
        "wrong_output": told(lambda: infer(texts, outputs=[library.InferRequestedOutput("embeddings")])),
        "wrong_version": told(lambda: infer(texts, model_version="2")),
        "unload_refused": told(lambda: client.unload_model("nope")),
    }


def raw_answer(library: Any, client: Any, **kwargs: Any) -> list[Any]:
    """The network's own answer to token ids, the second row padded."""
    ids = np.array([[5, 6, 7, 8], [5, 6, 0, 0]], dtype=np.int64)
    mask = np.array([[1, 1, 1, 1], [1, 1, 0, 0]], dtype=np.int64)
    inputs = [as_input(library, n, v, "INT64", **kwargs) for n, v in (("input_ids", ids), ("attention_mask", mask))]
    result = client.infer(MODEL, inputs)
    response = result.get_response()
    outputs = response.outputs if library is tritonclient.grpc else response["outputs"]
    name = outputs[0].name if library is tritonclient.grpc else outputs[0]["name"]
    return [name, plain(result.as_numpy(name))]


def over_http() -> dict[str, Any]:
    library = tritonclient.http
    texts = np.array([text.encode() for text in TEXTS], dtype=object)
    with library.InferenceServerClient(f"127.0.0.1:{HTTP_PORT}", network_timeout=120) as client:
        answers = common(library, client)
        answers["server"] = client.get_server_metadata()
        answers["index"] = client.get_model_repository_index()
        answers["model_unknown"] = client.is_model_ready("nope")
        answers["raw"] = raw_answer(library, client)
        answers["raw_json"] = raw_answer(library, client, binary_data=False)
        for binary_in, binary_out in product((True, False), repeat=2):
            result = client.infer(
                MODEL,
                [as_input(library, "any-name", texts, "BYTES", binary_data=binary_in)],
                outputs=[library.InferRequestedOutput("output-0", binary_data=binary_out)],
            )
            answers[f"in={binary_in} out={binary_out}"] = plain(result.as_numpy("output-0"))
        for asked, answered in (("gzip", "gzip"), ("deflate", "deflate"), ("gzip", None), (None, "gzip")):
            result = client.infer(
                MODEL,
                [as_input(library, "input-0", texts, "BYTES")],
                request_compression_algorithm=asked,
                response_compression_algorithm=answered,
            )
            answers[f"{asked} -> {answered}"] = plain(result.as_numpy("output-0"))
    return answers


def over_grpc() -> dict[str, Any]:
    library = tritonclient.grpc
    texts = np.array([text.encode() for text in TEXTS], dtype=object)
    with library.InferenceServerClient(f"127.0.0.1:{GRPC_PORT}") as client:
        answers = common(library, client)
        answers["server"] = client.get_server_metadata(as_json=True)
        answers["index"] = client.get_model_repository_index(as_json=True)
        answers["model_unknown"] = told(lambda: client.is_model_ready("nope"))
        answers["raw"] = raw_answer(library, client)
        compressed = client.infer(
            MODEL, [as_input(library, "input-0", texts, "BYTES")], compression_algorithm="gzip", client_timeout=60
        )
        answers["gzip"] = plain(compressed.as_numpy("output-0"))
    return answers


print(json.dumps({"http": over_http(), "grpc": over_grpc()}))
