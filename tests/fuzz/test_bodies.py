"""Inference requests that are wrong in a part, or damaged: REST with JSON and with binary tensors, gRPC, its bare port.

Each is answered as the caller's mistake or, where the damage left it whole, with 200. A real server takes them all.
"""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import socket
import struct
import zlib
from collections import Counter
from collections.abc import Iterator
from http.client import HTTPConnection, HTTPResponse

import grpc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelserve import pb
from tests.fuzz.bodies import as_binary, as_json, as_message, damaged, often, requests, whole
from tests.fuzz.memory import MIB, resident
from tests.models import tiny
from tests.process import Server, serve

INFER = "/v2/models/m/infer"
HEADER_LENGTH = "Inference-Header-Content-Length"
TIMEOUT_S = 30
SMALL_ANSWERS = "--grpc_max_send_message_length=200000"
MISTAKES = {400, 404, 413, 415}
pytestmark = pytest.mark.slow
few_or_many = pytest.mark.parametrize("cases", [60, pytest.param(1000, marks=pytest.mark.slow)])


@pytest.fixture(scope="module")
def classifier() -> Iterator[Server]:
    with serve("--model_dir", tiny("bert", "sequence_classification"), "--model_name=m", SMALL_ANSWERS) as classifier:
        before = resident(classifier.process.pid)
        yield classifier
        assert classifier.get("/v2/health/ready").status_code == 200
        assert "Traceback" not in classifier.log
        assert "modelserve_queue_size 0.0" in classifier.get("/metrics").text
        assert resident(classifier.process.pid) - before < 300 * MIB


class Rest:
    """One connection, which must stay the same one: the server's closing it shows as NotConnected at the next call."""

    def __init__(self, classifier: Server) -> None:
        self.http = HTTPConnection("127.0.0.1", classifier.http_port, timeout=TIMEOUT_S)
        self.http.connect()
        self.http.auto_open = 0
        self.statuses: Counter[int] = Counter()

    def ask(self, body: bytes, **headers: str) -> tuple[HTTPResponse, bytes]:
        self.http.request("POST", INFER, body, {name.replace("_", "-"): value for name, value in headers.items()})
        answer = self.http.getresponse()
        content = answer.read()
        self.statuses[answer.status] += 1
        if answer.status != 200:
            assert answer.status in MISTAKES, content
            assert isinstance(json.loads(content)["error"], str)
        return answer, content


@pytest.fixture
def rest(classifier: Server) -> Iterator[Rest]:
    rest = Rest(classifier)
    yield rest
    answer, content = rest.ask(as_json_text("still there"))
    assert answer.status == 200, content
    rest.http.close()


def as_json_text(text: str) -> bytes:
    return json.dumps({"inputs": [{"name": "a", "datatype": "BYTES", "shape": [1], "data": [text]}]}).encode()


@few_or_many
def test_json(rest: Rest, cases: int) -> None:
    @often(cases)
    @given(st.one_of(requests.map(as_json), requests.map(as_json).flatmap(damaged)))
    def ask(body: bytes) -> None:
        rest.ask(body)

    ask()
    assert rest.statuses[200] > cases / 20
    assert rest.statuses[400] > cases / 5


@few_or_many
def test_binary_tensors(rest: Rest, cases: int) -> None:
    lengths = st.sampled_from(["0", "1", "-1", "", " 7 ", "+5", "1e3", "0x10", "٣", "9" * 400, "x"])

    @often(cases)
    @given(requests.map(as_binary), st.data())
    def ask(whole: tuple[bytes, int], data: st.DataObject) -> None:
        body, size = whole
        said = str(size)
        match data.draw(st.sampled_from(["nothing", "body", "tail", "length", "near"])):
            case "body":
                body = data.draw(damaged(body))
            case "tail":
                body = body[:size] + data.draw(damaged(body[size:]))
            case "length":
                said = data.draw(lengths)
            case "near":
                said = str(max(0, size + data.draw(st.integers(-3, 3))))
        rest.ask(body, Inference_Header_Content_Length=said.encode().decode("latin-1"))

    ask()
    assert rest.statuses[200] > cases / 20
    assert rest.statuses[400] > cases / 5


@few_or_many
def test_packed_bodies(rest: Rest, cases: int) -> None:
    def deflate(data: bytes) -> bytes:
        packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        return packer.compress(data) + packer.flush()

    packed = {"gzip": gzip.compress, "x-gzip": gzip.compress, "deflate": st.sampled_from([zlib.compress, deflate])}

    @often(cases)
    @given(whole.map(as_json), st.sampled_from([*packed, "identity", "br", "gzip, gzip", "GZIP"]), st.data())
    def ask(body: bytes, coding: str, data: st.DataObject) -> None:
        pack = packed.get(coding.lower(), lambda body: body)
        body = (data.draw(pack) if isinstance(pack, st.SearchStrategy) else pack)(body)
        if data.draw(st.booleans()):
            body = data.draw(st.one_of(damaged(body), st.binary(max_size=40), st.just(body * 2)))
        rest.ask(body, Content_Encoding=coding)

    ask()
    assert rest.statuses[200] > cases / 20
    assert rest.statuses[415] > 0


def test_a_small_body_that_unpacks_to_a_large_one(rest: Rest, classifier: Server) -> None:
    """256 MiB of zeros are 0.3 MiB of gzip."""
    before = resident(classifier.process.pid)
    bomb = zlib.compressobj(9, wbits=zlib.MAX_WBITS + 16)
    body = b"".join(bomb.compress(bytes(MIB)) for _ in range(256)) + bomb.flush()
    for _ in range(5):
        answer, content = rest.ask(body, Content_Encoding="gzip")
        assert answer.status == 413, content
        assert b"--payload_limit" in content
    assert resident(classifier.process.pid) - before < 100 * MIB


@pytest.fixture
def channel(classifier: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{classifier.grpc_port}") as channel:
        yield channel


def call(channel: grpc.Channel, data: bytes, rpc: str = "ModelInfer") -> str:
    """The status of an RPC whose message is these bytes."""
    try:
        channel.unary_unary(f"/{pb.SERVICE.full_name}/{rpc}")(data, timeout=TIMEOUT_S)
    except grpc.RpcError as error:
        return str(error.code().name)
    return "OK"


@few_or_many
@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
def test_grpc(channel: grpc.Channel, raw: bool, cases: int) -> None:
    statuses: Counter[str] = Counter()
    messages = requests.map(lambda request: as_message(request, raw=raw))

    @often(cases)
    @given(st.one_of(messages, messages.flatmap(damaged), st.binary(max_size=60)))
    def ask(data: bytes) -> None:
        status = call(channel, data)
        assert status in ("OK", "INVALID_ARGUMENT", "NOT_FOUND")
        statuses[status] += 1

    ask()
    assert statuses["OK"] > cases / 20
    assert statuses["INVALID_ARGUMENT"] > cases / 5


@few_or_many
def test_every_other_rpc(channel: grpc.Channel, cases: int) -> None:
    """A field 1 holding any text, or any bytes at all."""
    named = st.text(max_size=20).map(lambda text: b"\x0a" + bytes([len(text.encode())]) + text.encode())

    @often(cases)
    @given(st.sampled_from(sorted(pb.SERVICE.methods_by_name)), st.one_of(named, st.binary(max_size=30)))
    def ask(rpc: str, data: bytes) -> None:
        assert call(channel, data, rpc) in ("OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED")

    ask()


def test_a_message_over_the_limit(channel: grpc.Channel) -> None:
    request = pb.ModelInferRequest(model_name="m", raw_input_contents=[bytes(9 * MIB)])
    assert call(channel, request.SerializeToString()) == "RESOURCE_EXHAUSTED"
    assert call(channel, b"", "ServerLive") == "OK"


def test_an_answer_over_the_limit(classifier: Server, channel: grpc.Channel) -> None:
    ids = pb.ModelInferRequest(model_name="m")
    ids.inputs.add(name="texts", datatype="BYTES", shape=[4000]).contents.bytes_contents.extend([b"a"] * 4000)
    ids.parameters["return_raw_logits"].bool_param = True
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")(ids.SerializeToString(), timeout=TIMEOUT_S)
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert "--grpc_max_send_message_length" in caught.value.details()
    assert call(channel, b"", "ServerLive") == "OK"


def test_noise_on_the_grpc_port(classifier: Server, channel: grpc.Channel) -> None:
    """Random frames behind HTTP/2's greeting, and random bytes instead of it, while another connection is served."""
    chance = random.Random(7)
    for attempt in range(100):
        with socket.create_connection(("127.0.0.1", classifier.grpc_port), timeout=TIMEOUT_S) as noisy:
            sent = b"" if attempt % 4 == 0 else b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\4\0\0\0\0\0"
            for _ in range(chance.randrange(1, 6)):
                payload = chance.randbytes(chance.randrange(100))
                size = len(payload) if chance.random() < 0.7 else chance.randrange(2**24)
                sent += struct.pack(">I", size)[1:] + chance.randbytes(6) + payload
            noisy.sendall(sent)
            if attempt % 2:
                noisy.shutdown(socket.SHUT_WR)
                with contextlib.suppress(ConnectionResetError):
                    while noisy.recv(MIB):
                        pass
        if attempt % 10 == 0:
            assert call(channel, b"", "ServerLive") == "OK"
    assert call(channel, b"", "ServerReady") == "OK"
