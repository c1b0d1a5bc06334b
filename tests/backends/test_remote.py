"""The remote backend against real servers, whose network is arithmetic (predictors.py), over every protocol."""

from __future__ import annotations

import contextlib
import datetime
import itertools
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from modelserve.backends import remote_grpc, remote_http, remote_watch
from modelserve.backends.remote import RemoteBackend
from modelserve.backends.remote_grpc import GrpcV2
from modelserve.backends.remote_http import Http, tls
from modelserve.backends.remote_model import Predictor
from modelserve.backends.remote_v1 import V1
from modelserve.backends.remote_v2 import V2
from modelserve.errors import (
    InvalidRequest,
    LoadError,
    ModelServeError,
    Overloaded,
    PredictorDown,
    PredictorFailed,
    RequestTimeout,
)
from modelserve.tasks.base import States
from modelserve.types import Caller, Encoding, Output
from tests.backends.predictors import CLASSES, Asked, Drop, Fault, Predicting, over_grpc, rest

SERVE: dict[str, Callable[..., AbstractContextManager[int]]] = {"v2": rest, "grpc-v2": over_grpc, "v1": rest}
PROTOCOLS = list(SERVE)
IDS = {"name": "input_ids", "datatype": "INT64", "shape": [-1, -1]}
MASK = IDS | {"name": "attention_mask"}
TYPES = IDS | {"name": "token_type_ids"}
TEXTS = [[5, 6, 7], [8], [1, 2, 3, 4, 5, 6, 7, 8], [9, 9]]


def connected(protocol: str, port: int, name: str = "m") -> Predictor:
    if protocol == "grpc-v2":
        return GrpcV2("127.0.0.1", port, name, credentials=None)
    http = Http("127.0.0.1", port, tls=None)
    return V1(http, name) if protocol == "v1" else V2(http, name)


@dataclass
class Backed:
    """A backend, and what it was told to observe."""

    backend: RemoteBackend
    outcomes: list[str] = field(default_factory=list)

    def logits(self, texts: Sequence[Encoding | list[int]]) -> list[list[list[float]]]:
        return [one.tolist() for one in self.backend.forward([encoded(one) for one in texts], _tokens)]


def encoded(text: Encoding | list[int]) -> Encoding:
    return text if isinstance(text, Encoding) else Encoding(ids=text)


def wanted(ids: list[int]) -> list[list[float]]:
    return [[float(id * (c + 1)) for c in range(CLASSES)] for id in ids]


def _tokens(states: States, encodings: Sequence[Encoding]) -> list[Output]:
    rows = states.token_logits().numpy()
    return np.split(rows, np.cumsum(states.lengths)[:-1])


def _sequences(states: States, encodings: Sequence[Encoding]) -> list[Output]:
    return list(states.sequence_logits().numpy())


@contextmanager
def backed(predictor: Predictor, **kwargs: Any) -> Iterator[Backed]:
    outcomes: list[str] = []
    usual: dict[str, Any] = {
        "head": "token",
        "width": CLASSES,
        "longest": 16,
        "pad_id": 0,
        "names": {},
        "usual": ("input_ids", "attention_mask"),
        "max_batch_size": 8,
        "timeout_s": 10.0,
        "observe": lambda outcome, seconds: outcomes.append(outcome),
    }
    with closing(predictor):
        backend = RemoteBackend(predictor, predictor.describe(), **usual | kwargs)
        try:
            yield Backed(backend, outcomes)
        finally:
            backend.close()


@contextmanager
def standing(protocol: str, predicting: Predicting, **kwargs: Any) -> Iterator[Backed]:
    with SERVE[protocol](predicting) as port, backed(connected(protocol, port), **kwargs) as it:
        yield it


def until(true: Callable[[], bool], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def raised(kind: type[ModelServeError], it: Backed, texts: Sequence[list[int]] = TEXTS) -> Any:
    with pytest.raises(kind) as caught:
        it.logits(texts)
    return caught.value


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_answers_in_order_and_without_the_padding(protocol: str) -> None:
    with standing(protocol, Predicting()) as it:
        assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]
        assert it.outcomes == ["ok"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_is_sent(protocol: str) -> None:
    predicting = Predicting()
    with standing(protocol, predicting) as it:
        it.logits([[5, 6], [7]])
    (asked,) = predicting.asked
    assert {name: values.tolist() for name, values in asked.tensors.items()} == {
        "input_ids": [[7, 0], [5, 6]],
        "attention_mask": [[1, 0], [1, 1]],
    }


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
@pytest.mark.parametrize("datatype", ["FP32", "FP16", "FP64", "BF16"])
@pytest.mark.parametrize("ids", ["INT64", "INT32"])
def test_datatypes_are_the_remotes(protocol: str, datatype: str, ids: str) -> None:
    predicting = Predicting(
        inputs=[IDS | {"datatype": ids}, MASK | {"datatype": ids}],
        outputs=[{"name": "logits", "datatype": datatype, "shape": [-1, -1, CLASSES]}],
    )
    with standing(protocol, predicting) as it:
        assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]
        assert it.backend.describe()["dtype"] == datatype
    assert {values.dtype for values in predicting.asked[0].tensors.values()} == {np.dtype(ids.lower())}


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_sequence_head(protocol: str) -> None:
    predicting = Predicting(outputs=[{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}])
    with standing(protocol, predicting, head="sequence") as it:
        found = it.backend.forward([encoded(ids) for ids in TEXTS], _sequences)
    assert [one.tolist() for one in found] == [np.sum(wanted(ids), axis=0).tolist() for ids in TEXTS]


def test_hidden_states() -> None:
    predicting = Predicting(outputs=[{"name": "last_hidden_state", "datatype": "FP32", "shape": [-1, -1, CLASSES]}])
    with standing("v2", predicting, head="none") as it:
        found = it.backend.forward([encoded([3])], lambda states, encodings: [states.hidden.numpy()])
    assert found[0].tolist() == wanted([3])


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_token_types_go_where_they_are_wanted(protocol: str) -> None:
    pair = Encoding(ids=[1, 2], type_ids=[0, 1])
    with standing(protocol, Predicting(inputs=[IDS, MASK, TYPES])) as it:
        assert it.logits([pair, [4]]) == [[[1, 2, 3], [102, 104, 106]], [[4, 8, 12]]]
    with standing(protocol, Predicting()) as it:
        with pytest.raises(InvalidRequest, match="takes no token_type_ids"):
            it.logits([pair])
        assert it.logits([Encoding(ids=[4], type_ids=[0])]) == [wanted([4])]


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_model_of_one_length_and_one_batch_size(protocol: str) -> None:
    inputs = [IDS | {"shape": [4, 16]}, MASK | {"shape": [4, 16]}]
    predicting = Predicting(inputs=inputs, config={"max_batch_size": 0})
    with standing(protocol, predicting) as it:
        assert it.logits(TEXTS[:3]) == [wanted(ids) for ids in TEXTS[:3]]
    assert predicting.asked[0].tensors["input_ids"].shape == (4, 16)


def test_a_model_that_takes_one_text_without_a_batch() -> None:
    inputs = [IDS | {"shape": [-1]}, MASK | {"shape": [-1]}]
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, CLASSES]}]
    with standing("v2", Predicting(inputs=inputs, outputs=outputs, config={"max_batch_size": 0})) as it:
        assert it.backend.limits.layout == "single"
        assert it.logits([[5, 6]]) == [wanted([5, 6])]


def test_a_remote_that_takes_shorter_texts_is_refused() -> None:
    inputs = [IDS | {"shape": [-1, 8]}, MASK | {"shape": [-1, 8]}]
    with (
        rest(Predicting(inputs=inputs)) as port,
        pytest.raises(LoadError, match="takes 8 tokens of a text, not 16; give"),
    ):
        backed(connected("v2", port)).__enter__()


def test_names_of_the_remote() -> None:
    inputs = [IDS | {"name": "INPUT__0"}, MASK | {"name": "INPUT__1"}]
    names = {"input_ids": "INPUT__0", "attention_mask": "INPUT__1"}
    with standing("v2", Predicting(inputs=inputs), names=names) as it:
        assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]


def test_a_server_without_binary_tensors_gets_json() -> None:
    predicting = Predicting(extensions=[])
    with standing("v2", predicting) as it:
        assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]
    headers = {name.lower(): value for name, value in predicting.asked[0].headers.items()}
    assert headers["content-type"] == "application/json"
    assert "inference-header-content-length" not in headers


@pytest.mark.parametrize(
    ("config", "most", "streams", "size"),
    [
        ({"max_batch_size": 8}, None, 4, 8),
        ({"max_batch_size": 8, "instance_group": [{"count": 2}]}, None, 3, 8),
        ({"max_batch_size": 8, "instance_group": [{"count": 2, "gpus": [0, 1]}, {"count": 1}]}, 4, 6, 4),
        ({"max_batch_size": 8, "instance_group": [{"count": 99}]}, None, 16, 8),
        (None, None, 8, 1),
        (None, 32, 4, 32),
    ],
)
@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_limits(protocol: str, config: dict[str, Any] | None, most: int | None, streams: int, size: int) -> None:
    with standing(protocol, Predicting(config=config), max_batch_size=most) as it:
        assert (it.backend.limits.streams, it.backend.limits.max_batch_size) == (streams, size)


def test_whole_vocabularies_make_smaller_requests() -> None:
    outputs = [{"name": "logits", "datatype": "FP32", "shape": [-1, -1, 250_002]}]
    with standing("v2", Predicting(outputs=outputs), width=250_002) as it:
        assert it.backend.limits.max_batch_tokens == 268
    with standing("v2", Predicting()) as it:
        assert it.backend.limits.max_batch_tokens == 16384


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_callers_id_and_trace_go_along(protocol: str) -> None:
    predicting = Predicting()
    trace = f"00-{'a' * 32}-{'b' * 16}-01"
    one, other = Caller("one", trace, "v=1"), Caller("other", f"00-{'c' * 32}-{'d' * 16}-01")
    strange = Caller("größe\r\nx: y")
    with standing(protocol, predicting) as it:
        it.logits([replace(encoded([1]), caller=one), replace(encoded([2]), caller=one)])
        it.logits([replace(encoded([1]), caller=one), replace(encoded([2]), caller=other)])
        it.logits([replace(encoded([1]), caller=strange)])
    first, shared, last = (
        {name.lower(): value for name, value in asked.headers.items()} | {"id": asked.id} for asked in predicting.asked
    )
    assert (first["x-request-id"], first["traceparent"], first["tracestate"]) == ("one", trace, "v=1")
    assert (shared["x-request-id"], shared["traceparent"]) == ("one,other", trace)
    assert "x-request-id" not in last
    if protocol != "v1":
        assert (first["id"], shared["id"]) == ("one", "one,other")


def test_connections_are_kept() -> None:
    predicting = Predicting()
    with standing("v2", predicting) as it:
        for _ in range(20):
            it.logits([[1]])
    assert predicting.connections == 1


def test_requests_go_side_by_side() -> None:
    together = threading.Barrier(4)
    predicting = Predicting(fault=lambda asked: together.wait(10) and None)
    with standing("v2", predicting) as it:
        found: list[Any] = []
        threads = [threading.Thread(target=lambda n=n: found.append(it.logits([[n]]))) for n in range(1, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert sorted(found) == [[wanted([n])] for n in range(1, 5)]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_error_of_the_remote_has_its_words(protocol: str) -> None:
    predicting = Predicting(fault=lambda asked: Fault(details="out of luck", body=b'{"error": "out of luck"}'))
    with standing(protocol, predicting, retries=3) as it:
        said = raised(PredictorFailed, it).message
        assert said == f"the remote predictor answered {'INTERNAL' if protocol == 'grpc-v2' else 500}: out of luck"
        assert len(predicting.asked) == 1
        assert it.outcomes == ["failed"]
        assert it.backend.trouble() == ""


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"detail": [{"msg": "no"}]}', "[{'msg': 'no'}]"),
        (b'{"error": {"message": "nested"}}', "nested"),
        (b"<html>\n bad  gateway</html>", "<html> bad gateway</html>"),
        (b"", "nothing was said"),
        (b'{"error": "ValueError: no\\n\\nAt:\\n  /models/m/1/model.py(17): execute\\n"}', "ValueError: no"),
        (b"\xff\xfe", "��"),
        (b"x" * 9000, "x" * 500),
        (b"[" * 100_000, "[" * 500),
    ],
)
def test_errors_in_any_form(body: bytes, said: str) -> None:
    with standing("v2", Predicting(fault=lambda asked: Fault(status=418, body=body))) as it:
        assert raised(PredictorFailed, it).message == f"the remote predictor answered 418: {said}"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    "spoil", [lambda a: a[:1], lambda a: a[:, :1], lambda a: a[..., :1], lambda a: a[0], lambda a: a[None]]
)
def test_wrong_shapes(protocol: str, spoil: Callable[[Any], Any]) -> None:
    with standing(protocol, Predicting(answer=spoil)) as it:
        said = raised(PredictorFailed, it).message
    assert said.startswith("the remote predictor answered logits FP32 [")
    assert said.endswith(f"], and [4, 8, {CLASSES}] was asked for")


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"not json", {}),
        (b'{"outputs": 3}', {}),
        (b'{"outputs": []}', {}),
        (b'{"outputs": [{"name": "x", "datatype": "FP32", "shape": [1], "data": [1]}]}', {}),
        (b'{"outputs": [{"name": "logits", "datatype": "BYTES", "shape": [1], "data": ["a"]}]}', {}),
        (b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [2, 2], "data": [1]}]}', {}),
        (b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1], "data": ["a"]}]}', {}),
        (b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1]}]}', {}),
        (b"{}", {"Inference-Header-Content-Length": "many"}),
        (b"[" * 100_000, {}),
        (b'{"outputs": [{"name": "x", "datatype": "FP32", "shape": [], "parameters": {"binary_data_size": ""}}]}', {}),
        (
            b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 1, 3], '
            b'"parameters": {"binary_data_size": 0}}]}',  # Triton's python backend, with an array of another numpy's
            {},
        ),
    ],
)  # fmt: skip
def test_answers_that_are_none(body: bytes, headers: dict[str, str]) -> None:
    with standing("v2", Predicting(fault=lambda asked: Fault(200, body=body, headers=headers))) as it:
        assert "the remote predictor" in raised(PredictorFailed, it).message


@pytest.mark.parametrize(
    "body", [b"x", b"{}", b'{"predictions": [{"a": 1, "b": 2}]}', b'{"predictions": [[1], [[2]]]}']
)
def test_answers_of_v1_that_are_none(body: bytes) -> None:
    with standing("v1", Predicting(fault=lambda asked: Fault(200, body=body))) as it:
        raised(PredictorFailed, it)


def test_predictions_of_v1_by_name() -> None:
    body = b'{"predictions": [{"other": 1, "logits": [[1, 2, 3]]}]}'
    with standing("v1", Predicting(fault=lambda asked: Fault(200, body=body))) as it:
        assert it.logits([[1]]) == [[[1, 2, 3]]]


BUSY = Fault(429, grpc.StatusCode.RESOURCE_EXHAUSTED, b'{"error": "later"}', "later", {"retry-after": "7"})
FULL = Fault(503, grpc.StatusCode.UNAVAILABLE, b'{"error": "Exceeds maximum queue size"}', "Exceeds maximum queue size")
NOT_READY = Fault(503, grpc.StatusCode.UNAVAILABLE, b'{"error": "later"}', "failed to connect: later")


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(("fault", "kind"), [(BUSY, Overloaded), (FULL, Overloaded), (NOT_READY, PredictorDown)])
def test_what_was_not_begun_is_tried_again(protocol: str, fault: Fault, kind: type[ModelServeError]) -> None:
    faults: list[Fault | None] = []
    predicting = Predicting(fault=lambda asked: faults.pop() if faults else None)
    with standing(protocol, predicting, retries=2) as it:
        faults[:] = [fault, fault]
        assert it.logits([[1]]) == [wanted([1])]
        assert len(predicting.asked) == 3
        faults[:] = [fault, fault, fault]
        error = raised(kind, it)
        assert "later" in error.message or "queue size" in error.message
        assert len(predicting.asked) == 6
        if fault is BUSY and protocol != "grpc-v2":
            assert error.retry_after_s == 7


def _drop(asked: Asked) -> Fault | None:
    raise Drop


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_may_have_begun_is_not_tried_again(protocol: str) -> None:
    predicting = Predicting(fault=_drop)
    with standing(protocol, predicting, retries=3) as it:
        error = raised(PredictorDown, it)
        assert error.begun
        assert len(predicting.asked) == 1
        assert it.outcomes == ["down"]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_slow_remote_is_given_up_in_time(protocol: str) -> None:
    answered = threading.Event()
    predicting = Predicting(fault=lambda asked: answered.wait(20) and None)
    with standing(protocol, predicting, timeout_s=0.3, retries=3) as it:
        started = time.monotonic()
        said = raised(RequestTimeout, it).message
        assert time.monotonic() - started < 5
        assert "did not answer within 0.3 s (--predictor_request_timeout_seconds" in said
        assert it.outcomes == ["timeout"]
        answered.set()
        predicting.fault = lambda asked: None
        assert it.logits([[1]]) == [wanted([1])]
    assert len(predicting.asked) == 2


def test_an_answer_that_trickles_is_given_up_in_time() -> None:
    predicting = Predicting(fault=lambda asked: Fault(200, body=b"x" * 1000, piece_s=0.05))
    with standing("v2", predicting, timeout_s=0.5) as it:
        started = time.monotonic()
        raised(RequestTimeout, it)
        assert time.monotonic() - started < 10


def _slowly(data: bytes, again: bytes) -> Callable[[], Iterator[bytes]]:
    def pieces() -> Iterator[bytes]:
        yield data
        for _ in range(200):
            time.sleep(0.05)
            yield again

    return pieces


@pytest.mark.parametrize("protocol", ["v1", "v2"])
@pytest.mark.parametrize(
    "raw", [_slowly(b"HTTP/1.1 200 OK\r\nx-long: ", b"x"), _slowly(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n")]
)
def test_a_head_that_never_ends_is_given_up_in_time(protocol: str, raw: Callable[[], Iterator[bytes]]) -> None:
    with standing(protocol, Predicting(fault=lambda asked: Fault(raw=raw)), timeout_s=0.5) as it:
        started = time.monotonic()
        raised(RequestTimeout, it)
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("protocol", ["v1", "v2"])
def test_a_body_that_never_ends_is_not_kept(protocol: str) -> None:
    def endless() -> Iterator[bytes]:
        yield b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
        while True:
            yield b"100000\r\n" + b"[" * 0x100000 + b"\r\n"

    with standing(protocol, Predicting(fault=lambda asked: Fault(raw=endless))) as it:
        said = raised(PredictorFailed, it).message
        assert said.startswith("the remote predictor answered more than the 41")  # 4 MiB and 96 numbers


def test_an_answer_over_grpcs_limit() -> None:
    with over_grpc(Predicting()) as port:
        predictor = GrpcV2("127.0.0.1", port, "m", credentials=None, most=300)
        with backed(predictor, retries=3) as it:
            assert it.logits([[1]]) == [wanted([1])]
            assert "larger than max" in raised(PredictorFailed, it, [[1] * 16] * 8).message


@pytest.mark.parametrize("datatype", ["FP32", "FP16", "BF16", "FP64"])
def test_numbers_that_come_as_json_are_those_numbers(datatype: str) -> None:
    output = {"name": "logits", "datatype": datatype, "shape": [-1, -1, CLASSES]}
    with standing("v2", Predicting(extensions=[], outputs=[output], answer=lambda answer: answer + 0.5)) as it:
        assert it.logits([[1]]) == [[[1.5, 2.5, 3.5]]]


@pytest.mark.parametrize("number", [b"null", b'"1.5"', b"{}"])
def test_what_is_no_number_is_no_answer(number: bytes) -> None:
    output = (
        b'{"outputs": [{"name": "logits", "datatype": "FP32", "shape": [1, 1, 3], "data": [1, ' + number + b", 2]}]}"
    )
    with standing("v2", Predicting(fault=lambda asked: Fault(200, body=output))) as it:
        raised(PredictorFailed, it, [[1]])
    body = b'{"predictions": [[[1, ' + number + b", 2]]]}"
    with standing("v1", Predicting(fault=lambda asked: Fault(200, body=body))) as it:
        raised(PredictorFailed, it, [[1]])


def test_an_index_that_is_none_is_no_reason_to_end() -> None:
    class Strange(V2):
        def _check_there(self, status: int, body: bytes) -> None:
            self._decoded("/v2/repository/index", b"<html>", list[int])

    with ExitStack() as stack:
        http = Http("127.0.0.1", stack.enter_context(rest(Predicting(ready=False))), tls=None)
        predictor = stack.enter_context(closing(Strange(http, "m")))
        stack.enter_context(pytest.raises(PredictorFailed, match="is not V2's"))
        predictor.describe()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_remote_that_goes_and_comes_back(protocol: str) -> None:
    predicting = Predicting()
    serving = SERVE[protocol](predicting)
    port = serving.__enter__()
    try:
        with backed(connected(protocol, port)) as it:
            assert it.logits([[1]]) == [wanted([1])]
            serving.__exit__(None, None, None)
            error = raised(PredictorDown, it)
            assert f"127.0.0.1:{port}" in error.message
            until(lambda: bool(it.backend.trouble()))
            serving = SERVE[protocol](predicting, port)
            serving.__enter__()
            until(lambda: not it.backend.trouble())
            assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]
    finally:
        serving.__exit__(None, None, None)


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_a_remote_that_comes_back_as_another_model(protocol: str) -> None:
    predicting = Predicting()
    with standing(protocol, predicting) as it:
        predicting.inputs = [IDS | {"datatype": "INT32"}, MASK | {"datatype": "INT32"}]
        predicting.config = {"max_batch_size": 2}
        predicting.fault = lambda asked: Fault() if asked.tensors["input_ids"].dtype != np.int32 else None
        raised(PredictorFailed, it)
        until(lambda: it.backend.limits.max_batch_size == 2)
        assert it.logits(TEXTS[:2]) == [wanted(ids) for ids in TEXTS[:2]]
        predicting.outputs = [{"name": "pooled", "datatype": "FP32", "shape": [-1, CLASSES]}]
        predicting.fault = lambda asked: Fault()
        raised(PredictorFailed, it, TEXTS[:2])
        until(lambda: "its outputs are pooled FP32" in it.backend.trouble())


def test_a_batch_that_was_formed_for_another_model_is_never_answered_wrongly() -> None:
    with standing("v2", Predicting(inputs=[IDS])) as it:
        assert it.backend.limits.layout == "equal"
        assert raised(PredictorFailed, it, [[1, 2], [3]]).message == "the remote predictor has another model by now"
        assert it.logits([[1, 2], [3, 4]]) == [wanted([1, 2]), wanted([3, 4])]
        raised(PredictorFailed, it, [[n] for n in range(9)])


def test_many_failures_are_one_reason_to_look() -> None:
    looks: list[float] = []

    class Counting(V2):
        def describe(self) -> Any:
            looks.append(time.monotonic())
            return super().describe()

    predicting = Predicting(fault=lambda asked: Fault())
    with rest(predicting) as port, backed(Counting(Http("127.0.0.1", port, tls=None), "m")) as it:
        for _ in range(100):
            raised(PredictorFailed, it, [[1]])
        until(lambda: len(looks) > 1)
    assert all(later - earlier >= 0.1 for earlier, later in itertools.pairwise(looks[1:]))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_the_health_check_needs_no_request(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "PERIOD_S", 0.05)
    predicting = Predicting()
    with standing(protocol, predicting, health_check=True) as it:
        predicting.ready = False
        until(lambda: "is not ready" in it.backend.trouble())
        predicting.ready = True
        until(lambda: not it.backend.trouble())
    assert predicting.asked == []


def test_without_the_health_check_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "PERIOD_S", 0.02)
    looks = 0

    class Counting(V2):
        def describe(self) -> Any:
            nonlocal looks
            looks += 1
            return super().describe()

    with rest(Predicting()) as port, backed(Counting(Http("127.0.0.1", port, tls=None), "m")) as it:
        time.sleep(0.3)  # fifteen periods, in which nothing may happen
        assert looks == 1
        it.logits([[1]])
        assert looks == 1


def test_a_request_that_takes_long_is_a_reason_to_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "PERIOD_S", 0.05)
    go_on = threading.Event()
    predicting = Predicting(fault=lambda asked: go_on.wait(20) and None)
    with standing("v2", predicting) as it:
        thread = threading.Thread(target=lambda: it.logits([[1]]))
        thread.start()
        until(lambda: bool(predicting.asked))
        predicting.ready = False
        until(lambda: "is not ready" in it.backend.trouble())
        go_on.set()
        thread.join(20)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_such_model(protocol: str) -> None:
    with SERVE[protocol](Predicting()) as port:
        predictor = connected(protocol, port, "nope")
        with pytest.raises(LoadError) as caught:
            predictor.describe()
        predictor.close()
    tail = "" if protocol == "v1" else "; it has m, other"
    assert (
        caught.value.message == f"the remote predictor at 127.0.0.1:{port} has no model named nope (--model_name){tail}"
    )


@pytest.mark.parametrize("protocol", ["v2", "grpc-v2"])
def test_no_such_model_where_there_is_no_index(protocol: str) -> None:
    with SERVE[protocol](Predicting(index=None)) as port:
        predictor = connected(protocol, port, "nope")
        with pytest.raises(LoadError, match=r"has no model named nope \(--model_name\)$"):
            predictor.describe()
        predictor.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_model_that_is_not_ready_yet(protocol: str) -> None:
    with SERVE[protocol](Predicting(ready=False)) as port:
        predictor = connected(protocol, port)
        with pytest.raises(PredictorDown, match="is not ready"):
            predictor.describe()
        predictor.close()


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nobody_there(protocol: str) -> None:
    with rest(Predicting()) as port:
        pass
    predictor = connected(protocol, port)
    with pytest.raises(PredictorDown, match=f"127.0.0.1:{port}"):
        predictor.describe()
    predictor.close()


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """An authority's file, and a server's context with its certificate of 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    ca, whole = tmp_path / "ca.pem", tmp_path / "whole.pem"
    pem = made.public_bytes(serialization.Encoding.PEM)
    ca.write_bytes(pem)
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    whole.write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(whole)
    return ca, context


def test_tls(certificate: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    ca, context = certificate
    with rest(Predicting(tls=context)) as port:
        with backed(V2(Http("127.0.0.1", port, tls=tls(str(ca))), "m")) as it:
            assert it.logits(TEXTS) == [wanted(ids) for ids in TEXTS]
        stranger = V2(Http("127.0.0.1", port, tls=tls(None)), "m")
        with pytest.raises(PredictorDown, match=r"cannot be reached \(.*certificate"):
            stranger.describe()
        stranger.close()
    with pytest.raises(LoadError, match=r"--predictor_ca_file .* cannot be read"):
        tls(str(tmp_path / "none.pem"))
    (tmp_path / "junk.pem").write_text("junk")
    with pytest.raises(LoadError, match=r"--predictor_ca_file .* cannot be read"):
        tls(str(tmp_path / "junk.pem"))


def test_closing_ends_the_tries() -> None:
    predicting = Predicting(fault=lambda asked: NOT_READY)
    with standing("v2", predicting, retries=1000, timeout_s=60.0) as it:
        found: list[ModelServeError] = []
        thread = threading.Thread(target=lambda: found.append(raised(PredictorDown, it, [[1]])))
        thread.start()
        until(lambda: len(predicting.asked) > 2)
        it.backend.close()
        thread.join(20)
    assert [error.message for error in found] == ["the server is shutting down"]


class Relay:
    """Passes bytes on to a port. `freeze`: what is connected by now hears nothing any more, as from a dead machine."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._frozen: set[int] = set()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def freeze(self) -> None:
        self._frozen = set(range(len(self._pairs)))

    def close(self) -> None:
        self._listener.close()
        for one in itertools.chain(*self._pairs):
            one.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                here, _ = self._listener.accept()
                there = socket.create_connection(("127.0.0.1", self._to))
                self._pairs.append((here, there))
                number = len(self._pairs) - 1
                for one, other in ((here, there), (there, here)):
                    threading.Thread(target=self._pass_on, args=(number, one, other), daemon=True).start()

    def _pass_on(self, number: int, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(65536):
                if number not in self._frozen:
                    other.sendall(data)


def test_a_machine_that_is_gone_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "PERIOD_S", 0.05)
    monkeypatch.setattr(remote_grpc, "CONNECT_S", 0.3)
    with ExitStack() as stack:
        relay = stack.enter_context(closing(Relay(stack.enter_context(over_grpc(Predicting())))))
        it = stack.enter_context(backed(connected("grpc-v2", relay.port), timeout_s=60.0))
        assert it.logits([[1]]) == [wanted([1])]
        relay.freeze()
        started = time.monotonic()
        assert raised(PredictorDown, it).begun
        assert time.monotonic() - started < 20
        until(lambda: not it.backend.trouble())
        assert it.logits([[1]]) == [wanted([1])]


def test_a_machine_that_is_only_busy_may_answer_yet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote_watch, "PERIOD_S", 0.05)
    monkeypatch.setattr(remote_grpc, "CONNECT_S", 0.2)
    computed, looked = threading.Event(), threading.Semaphore(0)
    busy = threading.Event()

    def look() -> None:
        if busy.is_set():
            looked.release()
            computed.wait(20)

    def compute(asked: Asked) -> None:
        busy.set()
        computed.wait(20)

    with standing("grpc-v2", Predicting(fault=compute, look=look), timeout_s=60.0) as it:
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(it.logits([[1]])))
        thread.start()
        for _ in range(4):  # two of them have a new connection made
            assert looked.acquire(timeout=20)
        until(lambda: "does not answer" in it.backend.trouble())
        computed.set()
        thread.join(20)
        assert found == [[wanted([1])]]
        until(lambda: not it.backend.trouble())


def test_a_connection_to_a_machine_that_is_gone_ends() -> None:
    """Linux's own doing, which no test can wait for: that it was asked for."""
    options = {name: value for _, name, value in remote_http._SOCKET_OPTIONS}
    assert options[socket.SO_KEEPALIVE] == 1
    assert options[socket.TCP_KEEPIDLE] + options[socket.TCP_KEEPINTVL] * options[socket.TCP_KEEPCNT] == 20
    assert options[socket.TCP_USER_TIMEOUT] == 20_000


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_no_proxy_is_between(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    with standing(protocol, Predicting()) as it:
        assert it.logits([[1]]) == [wanted([1])]
