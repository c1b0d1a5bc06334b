"""A text to the bytes of an HTTP request, and an answer's body to its vector, per API. Knows no socket."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

Vector = np.ndarray[tuple[int], np.dtype[np.float32]]


@dataclass(frozen=True, slots=True)
class Api:
    """request: a text to the bytes that ask for its embedding. vector: an answer's headers and body to it."""

    request: Callable[[str], bytes]
    vector: Callable[[Mapping[str, str], bytes], Vector]


def post(path: str, body: bytes, **headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: localhost", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


def predict(path: str) -> Api:
    """V1's shape; the naive server's too."""

    def request(text: str) -> bytes:
        return post(path, json.dumps({"instances": [text]}).encode(), content_type="application/json")

    def vector(headers: Mapping[str, str], body: bytes) -> Vector:
        return np.array(json.loads(body)["predictions"][0], dtype=np.float32)

    return Api(request, vector)


def v2_binary(path: str) -> Api:
    """One BYTES tensor there, one FP32 tensor back, both in the binary extension."""

    def request(text: str) -> bytes:
        data = text.encode()
        tensor = len(data).to_bytes(4, "little") + data
        head = json.dumps(
            {
                "inputs": [
                    {
                        "name": "input-0",
                        "shape": [1],
                        "datatype": "BYTES",
                        "parameters": {"binary_data_size": len(tensor)},
                    }
                ],
                "parameters": {"binary_data_output": True},
            }
        ).encode()
        return post(
            path,
            head + tensor,
            content_type="application/octet-stream",
            inference_header_content_length=str(len(head)),
        )

    def vector(headers: Mapping[str, str], body: bytes) -> Vector:
        return np.frombuffer(body[int(headers["inference-header-content-length"]) :], dtype="<f4")

    return Api(request, vector)


def openai_base64(path: str, model: str) -> Api:
    def request(text: str) -> bytes:
        body = {"model": model, "input": text, "encoding_format": "base64"}
        return post(path, json.dumps(body).encode(), content_type="application/json")

    def vector(headers: Mapping[str, str], body: bytes) -> Vector:
        return np.frombuffer(base64.b64decode(json.loads(body)["data"][0]["embedding"]), dtype="<f4")

    return Api(request, vector)
