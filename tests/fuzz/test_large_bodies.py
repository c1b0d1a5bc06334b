"""Bodies of the allowed size that are made to be expensive: refused, or answered, without holding up anybody else."""

from __future__ import annotations

import json
import threading
from http.client import HTTPConnection

import grpc
import pytest

from modelserve import pb
from modelserve.protocols.tensors import MAX_TENSORS
from tests.fuzz.memory import MIB, resident
from tests.process import Server

V1, V2, EMBEDDINGS = "/v1/models/m:predict", "/v2/models/m/infer", "/v1/embeddings"
BODY_BYTES = 32 * MIB - 100
ONE_TEXT = b'"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ["a"]}]'
TIMEOUT_S = 60
"""Far more than any of them takes; without a limit for the number of sizes one of them would take days."""


TEXTS = b'{"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "data": ['
SIZES = b'{"inputs": [{"name": "a", "datatype": "BYTES", "data": ["a"], "shape": [-1,'
NAME = b'{"inputs": [{"shape": [1], "datatype": "?", "data": [], "name": "'
REFUSED = {
    "sizes of a shape": (V2, SIZES, b"4611686018427387904,", b"1]}]}", 400),
    "texts in V1": (V1, b'{"instances": [', b'"a",', b'"a"]}', 413),
    "texts in V2": (V2, TEXTS, b'"a",', b'"a"]}]}', 400),
    "lists in V2": (V2, TEXTS, b"[],", b"[]]}]}", 400),
    "inputs": (V2, b'{"inputs": [', b'{"name":"","shape":[],"datatype":""},', b"0]}", 400),
    "lists of token ids": (EMBEDDINGS, b'{"model": "m", "input": [', b"[1],", b"[1]]}", 413),
    "characters in a name": (V2, NAME, b"\\u0001", b'"}]}', 400),
}


@pytest.mark.slow
@pytest.mark.parametrize("of", REFUSED.values(), ids=list(REFUSED))
def test_of_millions_of(server: Server, of: tuple[str, bytes, bytes, bytes, int]) -> None:
    path, head, piece, tail, expected = of
    body = head + piece * ((BODY_BYTES - len(head) - len(tail)) // len(piece)) + tail
    answer = server.post(path, content=body)
    assert answer.status_code == expected, answer.text[:300]
    assert len(answer.content) < 10_000, "what was sent does not come back in the error"


@pytest.mark.slow
def test_others_are_served_while_millions_of_elements_are_read(server: Server) -> None:
    head = {"name": "a", "shape": [6_000_000], "datatype": "BYTES", "parameters": {"binary_data_size": 24_000_000}}
    head_bytes = json.dumps({"inputs": [head]}).encode()
    headers = {"inference-header-content-length": str(len(head_bytes))}
    done = threading.Event()
    codes = []

    def ask() -> None:
        codes.append(server.post(V2, content=head_bytes + bytes(24_000_000), headers=headers).status_code)
        done.set()

    asking = threading.Thread(target=ask)
    http = HTTPConnection("127.0.0.1", server.http_port, timeout=TIMEOUT_S)
    asking.start()
    answered = 0
    while not done.is_set():
        http.request("GET", "/v2/health/live")
        http.getresponse().read()
        answered += 1
    asking.join()
    http.close()
    assert codes == [413]
    assert answered > 20


def test_an_output_that_is_asked_for_often_comes_once(server: Server) -> None:
    before = resident(server.process.pid)
    body = b'{%b, "outputs": [%b{"name": "output-0"}]}' % (ONE_TEXT, b'{"name": "output-0"},' * 100_000)
    assert len(server.post(V2, content=body).json()["outputs"]) == 1
    request = pb.ModelInferRequest(model_name="m")
    request.inputs.add(name="a", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    for _ in range(100_000):
        request.outputs.add(name="output-0")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        infer = channel.unary_unary(
            f"/{pb.SERVICE.full_name}/ModelInfer", response_deserializer=pb.ModelInferResponse.FromString
        )
        assert len(infer(request.SerializeToString(), timeout=TIMEOUT_S).outputs) == 1
    assert resident(server.process.pid) - before < 200 * MIB


def test_more_inputs_than_any_model_has(server: Server) -> None:
    request = pb.ModelInferRequest(model_name="m")
    for _ in range(MAX_TENSORS + 1):
        request.inputs.add(name="a", datatype="BYTES", shape=[1]).contents.bytes_contents.append(b"a")
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel, pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")(request.SerializeToString(), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert f"{MAX_TENSORS + 1} inputs" in caught.value.details()
