"""A fault of our own is a 500 of each API: told neutrally, logged in full, for that request alone, on a connection that
stays. Injected into a real server, at each place where a request is worked on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from typing import Any

import grpc
import pytest

from modelserve import pb
from tests.models import tiny
from tests.process import Server, serve

INJECT = """
from modelserve.backends.huggingface import HuggingFaceBackend
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.tasks.text_embedding import TextEmbedding

class Panic(BaseException):
    "As the Rust tokenizer's panics are."

def failing(method, place, of_texts, error):
    def call(self, first, *rest, **more):
        if any(place == text for text in of_texts(first)):
            raise error("secret detail")
        return method(self, first, *rest, **more)
    return call

texts = lambda encodings: [encoding.text for encoding in encodings]
Tokenizer.__call__ = failing(Tokenizer.__call__, "tokenizer", lambda instances: instances, RuntimeError)
Tokenizer.__call__ = failing(Tokenizer.__call__, "panic", lambda instances: instances, Panic)
HuggingFaceBackend.forward = failing(HuggingFaceBackend.forward, "forward", texts, RuntimeError)
postprocess = TextEmbedding.postprocess
def shaping(self, output, encoding, params):
    if encoding.text == "postprocess":
        raise ValueError("secret detail")
    return postprocess(self, output, encoding, params)
TextEmbedding.postprocess = shaping
"""
pytestmark = pytest.mark.slow
PLACES = ["tokenizer", "panic", "forward", "postprocess"]


@pytest.fixture(scope="module")
def faulty() -> Iterator[Server]:
    with serve("--model_dir", tiny("bert"), "--model_name=m", code=INJECT) as faulty:
        yield faulty


def v2(text: str) -> dict[str, Any]:
    return {"inputs": [{"name": "t", "datatype": "BYTES", "shape": [1], "data": [text]}]}


REST = {
    "V1": ("/v1/models/m:predict", lambda text: {"instances": [text]}),
    "V2": ("/v2/models/m/infer", v2),
    "V2 binary": ("/v2/models/m/infer", lambda text: v2(text) | {"parameters": {"binary_data_output": True}}),
    "OpenAI": ("/openai/v1/embeddings", lambda text: {"model": "m", "input": text}),
}


def neutral(sentence: str) -> bool:
    return bool(sentence) and not any(word in sentence for word in ("secret", "Error", "Traceback", "Panic", "\n"))


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("api", REST)
def test_over_rest(faulty: Server, api: str, place: str) -> None:
    path, body = REST[api]
    http = HTTPConnection("127.0.0.1", faulty.http_port, timeout=30)
    http.connect()
    http.auto_open = 0  # a connection that the server closes is not opened again

    def ask(text: str) -> tuple[int, bytes]:
        http.request("POST", path, json.dumps(body(text)), {"X-Request-Id": f"{api}-{place}"})
        answer = http.getresponse()
        assert answer.headers["x-request-id"] == f"{api}-{place}"
        return answer.status, answer.read()

    for _ in range(2):
        status, content = ask(place)
        assert status == 500, content
        error = json.loads(content)["error"]
        if api == "OpenAI":
            assert (error["type"], error["param"], error["code"]) == ("server_error", None, None)
            error = error["message"]
        assert neutral(error), error
        assert ask("fine")[0] == 200
    assert "secret detail" in faulty.log
    assert faulty.get("/v2/health/ready").status_code == 200
    http.close()


@pytest.mark.parametrize("place", PLACES)
def test_over_grpc(faulty: Server, place: str) -> None:
    def message(text: str) -> Any:
        request = pb.ModelInferRequest(model_name="m")
        request.inputs.add(name="t", datatype="BYTES", shape=[1]).contents.bytes_contents.append(text.encode())
        return request.SerializeToString()

    with grpc.insecure_channel(f"127.0.0.1:{faulty.grpc_port}") as channel:
        infer = channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")
        for _ in range(2):
            with pytest.raises(grpc.RpcError) as caught:
                infer(message(place), timeout=30)
            assert caught.value.code() is grpc.StatusCode.INTERNAL
            assert neutral(caught.value.details())
            assert infer(message("fine"), timeout=30)
