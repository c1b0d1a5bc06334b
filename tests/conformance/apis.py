"""Every API as a client sees it, written from the protocols' descriptions: texts and parameters in, predictions out.

Codes and decodes by itself, so that a mistake of the server's own coding shows.
"""

from __future__ import annotations

import json
import struct
from base64 import b64decode
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import httpx
import numpy as np

from modelserve import pb
from tests.conformance.serving import Served

Text = str | tuple[str, str]
"""A text, or two that are read together."""

Tensors = dict[str, np.ndarray]
"""V2's tensors by name; BYTES are arrays of str."""

DATATYPES = {"O": "BYTES", "l": "INT64", "f": "FP32", "d": "FP64"}
CONTENTS = {"BYTES": "bytes_contents", "INT64": "int64_contents", "FP32": "fp32_contents", "FP64": "fp64_contents"}
NUMPY = {"INT64": "<i8", "FP32": "<f4", "FP64": "<f8"}


@dataclass
class Answer:
    predictions: list[Any]
    """As V1 nests them."""
    beside: Tensors = field(default_factory=dict)
    """The tensors beside `output-0`."""
    dropped: int = 0
    """Tokens that truncation dropped, as every API must tell."""


class Refused(Exception):
    """The status of an error, an HTTP number or a gRPC name, and its sentence."""

    def __init__(self, status: int | str, message: str) -> None:
        super().__init__(message)
        self.status = status


async def ask(served: Served, api: str, texts: Sequence[Text], **parameters: Any) -> Answer:
    """The answer to these texts, sent in one request. Raises Refused."""
    if api in V2:
        tensors, dropped = await V2[api](served, {"any-name": _texts(texts)}, parameters)
        return Answer(as_v1(tensors.pop("output-0")), tensors, dropped)
    return await OTHERS[api](served, texts, parameters)


def _texts(texts: Sequence[Text]) -> np.ndarray:
    array = np.empty((len(texts), 2) if isinstance(texts[0], tuple) else len(texts), dtype=object)
    array[:] = [list(text) if isinstance(text, tuple) else text for text in texts]
    return array


def as_v1(output: np.ndarray) -> list[Any]:
    """A tensor nested as V1 nests the same predictions."""
    rows = output.tolist()
    if output.ndim > 1 and output.dtype != np.float32:
        rows = [_unpadded(row) for row in rows]
    return [_mask_alone(_parsed(row)) for row in rows]


def _unpadded(row: Any) -> Any:
    if not isinstance(row, list):
        return row
    return [kept for one in row if one not in ("", -100) and (kept := _unpadded(one)) != []]


def _parsed(value: Any) -> Any:
    if isinstance(value, list):
        return [_parsed(one) for one in value]
    return json.loads(value) if isinstance(value, str) and value.startswith('{"') else value


def _mask_alone(row: Any) -> Any:
    """The candidates for a text's only mask are in one list, as in transformers' pipeline."""
    match row:
        case [[{"token_str": _}, *_] as candidates]:
            return candidates
    return row


async def _post(served: Served, path: str, **content: Any) -> tuple[httpx.Response, int]:
    answer = await served.http.post(path, **content)
    if answer.status_code != 200:
        error = answer.json()["error"]
        raise Refused(answer.status_code, error if isinstance(error, str) else error["message"])
    return answer, int(answer.headers.get("x-modelserve-tokens-dropped", 0))


async def v1(served: Served, texts: Sequence[Text], parameters: dict[str, Any]) -> Answer:
    instances = [{"text": one[0], "text_pair": one[1]} if isinstance(one, tuple) else one for one in texts]
    body = {"instances": instances, **({"parameters": parameters} if parameters else {})}
    answer, dropped = await _post(served, f"/v1/models/{served.name}:predict", json=body)
    said = answer.json()
    assert said.get("parameters", {}).get("tokens_dropped", 0) == dropped
    beside = {one["name"]: _array(one["datatype"], one["shape"], one["data"]) for one in said.get("outputs", ())}
    return Answer(said["predictions"], beside, dropped)


async def v2_json(
    served: Served, inputs: Tensors, parameters: dict[str, Any], outputs: Sequence[str] = ()
) -> tuple[Tensors, int]:
    described = [{**_head(name, array), "data": array.ravel().tolist()} for name, array in inputs.items()]
    body = {"inputs": described, "parameters": _flat(parameters), "outputs": _named(outputs)}
    answer, dropped = await _post(served, f"/v2/models/{served.name}/infer", json=body)
    said = answer.json()
    assert ((said["parameters"] or {}).get("tokens_dropped", 0)) == dropped
    return {o["name"]: _array(o["datatype"], o["shape"], o["data"]) for o in said["outputs"]}, dropped


async def v2_binary(
    served: Served, inputs: Tensors, parameters: dict[str, Any], outputs: Sequence[str] = ()
) -> tuple[Tensors, int]:
    parts = [_to_bytes(array) for array in inputs.values()]
    described = [
        {**_head(name, array), "parameters": {"binary_data_size": len(part)}}
        for (name, array), part in zip(inputs.items(), parts, strict=True)
    ]
    flags = {**_flat(parameters), "binary_data_output": True}
    head = json.dumps({"inputs": described, "parameters": flags, "outputs": _named(outputs)}).encode()
    answer, dropped = await _post(
        served,
        f"/v2/models/{served.name}/infer",
        content=b"".join((head, *parts)),
        headers={"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))},
    )
    size = int(answer.headers["inference-header-content-length"])
    said, rest = json.loads(answer.content[:size]), answer.content[size:]
    assert said.get("parameters", {}).get("tokens_dropped", 0) == dropped
    tensors = {}
    for output in said["outputs"]:
        length = output["parameters"]["binary_data_size"]
        tensors[output["name"]], rest = _of_bytes(output["datatype"], output["shape"], rest[:length]), rest[length:]
    assert not rest
    return tensors, dropped


async def grpc_contents(
    served: Served, inputs: Tensors, parameters: dict[str, Any], outputs: Sequence[str] = ()
) -> tuple[Tensors, int]:
    request = _grpc_request(served, inputs, parameters, outputs)
    for message, array in zip(request.inputs, inputs.values(), strict=True):
        flat = array.ravel().tolist()
        elements = [text.encode() for text in flat] if message.datatype == "BYTES" else flat
        getattr(message.contents, CONTENTS[message.datatype]).extend(elements)
    answer, dropped = await _grpc(served, request)
    assert not answer.raw_output_contents
    tensors = {}
    for output in answer.outputs:
        elements = list(getattr(output.contents, CONTENTS[output.datatype]))
        tensors[output.name] = _array(output.datatype, output.shape, elements)
    return tensors, dropped


async def grpc_raw(
    served: Served, inputs: Tensors, parameters: dict[str, Any], outputs: Sequence[str] = ()
) -> tuple[Tensors, int]:
    request = _grpc_request(served, inputs, parameters, outputs)
    request.raw_input_contents.extend(_to_bytes(array) for array in inputs.values())
    answer, dropped = await _grpc(served, request)
    assert not any(output.HasField("contents") for output in answer.outputs)
    pairs = zip(answer.outputs, answer.raw_output_contents, strict=True)
    return {output.name: _of_bytes(output.datatype, output.shape, raw) for output, raw in pairs}, dropped


def _grpc_request(served: Served, inputs: Tensors, parameters: dict[str, Any], outputs: Sequence[str]) -> Any:
    request = pb.ModelInferRequest(
        model_name=served.name, inputs=[_head(name, array) for name, array in inputs.items()], outputs=_named(outputs)
    )
    for name, value in _flat(parameters).items():
        kind = {bool: "bool_param", int: "int64_param", str: "string_param", float: "double_param"}[type(value)]
        setattr(request.parameters[name], kind, value)
    return request


async def _grpc(served: Served, request: Any) -> tuple[Any, int]:
    call = served.infer(request, timeout=60)
    try:
        answer = await call
    except grpc.aio.AioRpcError as error:
        raise Refused(error.code().name, error.details() or "") from error
    dropped = int(dict(await call.trailing_metadata()).get("x-modelserve-tokens-dropped", 0))
    assert answer.parameters["tokens_dropped"].int64_param == dropped
    return answer, dropped


def _flat(parameters: dict[str, Any]) -> dict[str, Any]:
    """V2's parameters: a list travels as a JSON string."""
    return {name: json.dumps(value) if isinstance(value, list) else value for name, value in parameters.items()}


def _named(outputs: Sequence[str]) -> list[dict[str, str]]:
    return [{"name": name} for name in outputs]


def _head(name: str, array: np.ndarray) -> dict[str, Any]:
    return {"name": name, "datatype": DATATYPES[array.dtype.char], "shape": array.shape}


def _array(datatype: str, shape: Sequence[int], elements: Sequence[Any]) -> np.ndarray:
    if datatype == "BYTES":
        flat = np.empty(len(elements), dtype=object)
        flat[:] = [one.decode() if isinstance(one, bytes) else one for one in elements]
        return flat.reshape(shape)
    return np.array(elements, dtype=NUMPY[datatype]).reshape(shape)


def _to_bytes(array: np.ndarray) -> bytes:
    if array.dtype.char != "O":
        return array.tobytes()
    texts = [text.encode() for text in array.ravel()]
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def _of_bytes(datatype: str, shape: Sequence[int], raw: bytes) -> np.ndarray:
    if datatype != "BYTES":
        return np.frombuffer(raw, NUMPY[datatype]).reshape(shape)
    elements = []
    while raw:
        (length,) = struct.unpack_from("<I", raw)
        elements.append(raw[4 : 4 + length])
        raw = raw[4 + length :]
    return _array(datatype, shape, elements)


async def openai(served: Served, texts: Sequence[Text], parameters: dict[str, Any]) -> Answer:
    body = {"model": served.name, "input": texts, "encoding_format": "float", **parameters}
    answer, dropped = await _post(served, "/openai/v1/embeddings", json=body)
    return Answer([one["embedding"] for one in _in_order(answer)], {}, dropped)


async def openai_base64(served: Served, texts: Sequence[Text], parameters: dict[str, Any]) -> Answer:
    body = {"model": served.name, "input": texts, "encoding_format": "base64", **parameters}
    answer, dropped = await _post(served, "/v1/embeddings", json=body)
    vectors = [np.frombuffer(b64decode(one["embedding"]), "<f4").tolist() for one in _in_order(answer)]
    return Answer(vectors, {}, dropped)


def _in_order(answer: httpx.Response) -> list[dict[str, Any]]:
    data: list[dict[str, Any]] = answer.json()["data"]
    assert [one["index"] for one in data] == list(range(len(data)))
    return data


async def rerank(served: Served, query: str, documents: Sequence[str]) -> list[tuple[int, float]]:
    """(index, score) of the documents, the best one first."""
    answer, _ = await _post(served, "/v1/rerank", json={"model": served.name, "query": query, "documents": documents})
    return [(one["index"], one["relevance_score"]) for one in answer.json()["results"]]


V2 = {"v2-json": v2_json, "v2-binary": v2_binary, "grpc": grpc_contents, "grpc-raw": grpc_raw}
OTHERS = {"v1": v1, "openai": openai, "openai-base64": openai_base64}
APIS = ("v1", *V2)


def apis(task: str) -> tuple[str, ...]:
    """The APIs that answer a task."""
    return (*APIS, "openai", "openai-base64") if task == "text_embedding" else APIS
