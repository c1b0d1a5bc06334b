"""The gRPC service over a real channel: every RPC, both encodings, what is refused and with which status.

The models are stand-ins that answer what a test says: what real models answer is compared in test_v2_infer.py and in
tests/clients.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import struct
import threading
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from modelserve import pb
from modelserve.errors import ConfigError, InferenceFailed, InvalidRequest, ModelServeError, Overloaded
from modelserve.protocols import grpc_tensors
from modelserve.protocols.grpc import start_grpc
from modelserve.runtime.model import Models
from modelserve.types import InferRequest, InferResponse, Params, Tensor, TextPair, TokenIds
from tests.protocols import rest as stand_in
from tests.protocols.rest import Infer, StandIn, lengths

pytestmark = pytest.mark.asyncio


@dataclass
class Served:
    """A started server and a channel to it."""

    server: grpc.aio.Server
    port: int
    channel: grpc.aio.Channel
    models: Models
    model: StandIn

    async def call(self, method: str, message: Any = None, **fields: Any) -> Any:
        """The answer of an RPC; `message` instead of fields sends a ready message, or bytes."""
        descriptor = pb.SERVICE.methods_by_name[method]
        if message is None:
            message = GetMessageClass(descriptor.input_type)(**fields)
        data = message if isinstance(message, bytes) else message.SerializeToString()
        answer = await self.channel.unary_unary(f"/{pb.SERVICE.full_name}/{method}")(data, timeout=20)
        return GetMessageClass(descriptor.output_type).FromString(answer)

    async def refused(self, method: str, message: Any = None, **fields: Any) -> tuple[str, str]:
        """Status name and details of an RPC that must fail."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.call(method, message, **fields)
        return caught.value.code().name, caught.value.details() or ""


@contextlib.asynccontextmanager
async def serve(answer: Infer = lengths, **config: Any) -> AsyncIterator[Served]:
    context = stand_in.context(model := StandIn(answer), **config)
    server, port = await start_grpc(context, 0)
    channel = grpc.aio.insecure_channel(
        f"127.0.0.1:{port}", options=[("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    )
    try:
        yield Served(server, port, channel, context.models, model)
    finally:
        await channel.close()
        await server.stop(None)


def raw(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def tensor(datatype: str = "BYTES", shape: tuple[int, ...] = (1,), name: str = "input-0", **contents: Any) -> Any:
    if not contents:
        return {"name": name, "datatype": datatype, "shape": shape}
    return {"name": name, "datatype": datatype, "shape": shape, "contents": contents}


def request(*inputs: Any, **fields: Any) -> Any:
    return pb.ModelInferRequest(**{"model_name": "m", **fields}, inputs=inputs)


def texts(*values: str, **fields: Any) -> Any:
    return request(tensor(shape=(len(values),), bytes_contents=[v.encode() for v in values]), **fields)


async def test_server_and_model_are_live_ready_and_described() -> None:
    async with serve() as served:
        assert (await served.call("ServerLive")).live
        assert (await served.call("ServerReady")).ready
        assert (await served.call("ModelReady", name="m")).ready
        assert (await served.call("ModelReady", name="m", version="1")).ready
        server = await served.call("ServerMetadata")
        assert (server.name, list(server.extensions)) == (
            "modelserve",
            ["binary_tensor_data", "model_repository"],
        )
        model = await served.call("ModelMetadata", name="m")
        assert (model.name, list(model.versions), model.platform) == ("m", ["1"], "stand-in")
        assert [(t.name, t.datatype, list(t.shape)) for t in (*model.inputs, *model.outputs)] == [
            ("input-0", "BYTES", [-1]),
            ("output-0", "INT64", [-1]),
        ]


async def test_readiness_is_told_as_it_is() -> None:
    async with serve() as served:
        served.model.stage, served.model.reason = "load", "load in progress"
        assert not (await served.call("ServerReady")).ready
        assert not (await served.call("ModelReady", name="m")).ready
        assert (await served.call("ServerLive")).live
        status, details = await served.refused("ModelInfer", texts("a"))
        assert (status, details) == ("UNAVAILABLE", "Model with name m is not ready: load in progress.")


@pytest.mark.parametrize(
    ("method", "fields"),
    [
        ("ModelReady", {"name": "nope"}),
        ("ModelReady", {"name": "m", "version": "2"}),
        ("ModelMetadata", {"name": "nope"}),
        ("ModelInfer", {"model_name": "nope"}),
        ("ModelInfer", {"model_name": "m", "model_version": "2"}),
    ],
)
async def test_unknown_models_and_versions_are_not_found(method: str, fields: dict[str, str]) -> None:
    async with serve() as served:
        status, details = await served.refused(method, **fields)
    assert status == "NOT_FOUND"
    told = "Model m has no version 2; the only version is 1." if "m" in fields.values() else "Model with name nope does"
    assert told in details


async def test_texts_in_typed_contents_are_answered_typed() -> None:
    async with serve() as served:
        answer = await served.call("ModelInfer", texts("naïve", "ab", id="42"))
        assert served.model.requests[0].instances == ["naïve", "ab"]
    assert (answer.model_name, answer.id) == ("m", "42")
    assert not answer.raw_output_contents
    (output,) = answer.outputs
    assert (output.name, output.datatype, list(output.shape)) == ("output-0", "INT64", [2])
    assert list(output.contents.int64_contents) == [5, 2]


async def test_a_raw_request_is_answered_raw() -> None:
    async with serve() as served:
        answer = await served.call(
            "ModelInfer", request(tensor(shape=(2,)), raw_input_contents=[raw("naïve".encode(), b"")])
        )
        assert served.model.requests[0].instances == ["naïve", ""]
    assert not answer.outputs[0].HasField("contents")
    assert answer.raw_output_contents == [np.array([5, 0], "<i8").tobytes()]


async def test_an_id_is_made_where_none_was_sent() -> None:
    async with serve() as served:
        answers = [await served.call("ModelInfer", texts("a")) for _ in range(2)]
    assert len({answer.id for answer in answers} - {""}) == 2


@pytest.mark.parametrize("shape", [(2, 1), (1, 2), (2,)])
async def test_shapes_tell_texts_from_pairs(shape: tuple[int, ...]) -> None:
    async with serve() as served:
        await served.call("ModelInfer", request(tensor(shape=shape, bytes_contents=[b"a", b"b"])))
        instances = served.model.requests[0].instances
    assert instances == ([TextPair("a", "b")] if shape == (1, 2) else ["a", "b"])


async def test_every_output_datatype_is_encoded_both_ways() -> None:
    outputs = [
        Tensor("floats", "FP32", (2, 2), np.array([[1.5, -2], [3, 4]], np.float32)),
        Tensor("doubles", "FP64", (1,), np.array([0.1])),
        Tensor("words", "BYTES", (2,), [b"caf\xc3\xa9", b""]),
        Tensor("flags", "BOOL", (2,), np.array([True, False])),
        Tensor("small", "INT32", (1,), np.array([-7], np.int32)),
    ]

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse(request.model_name, request.id, outputs=outputs)

    async with serve(answer) as served:
        typed = await served.call("ModelInfer", texts("a"))
        binary = await served.call("ModelInfer", request(tensor(), raw_input_contents=[raw(b"a")]))
    assert list(typed.outputs[0].contents.fp32_contents) == [1.5, -2, 3, 4]
    assert list(typed.outputs[1].contents.fp64_contents) == [0.1]
    assert list(typed.outputs[2].contents.bytes_contents) == [b"caf\xc3\xa9", b""]
    assert list(typed.outputs[3].contents.bool_contents) == [True, False]
    assert list(typed.outputs[4].contents.int_contents) == [-7]
    assert list(binary.raw_output_contents) == [
        np.array([1.5, -2, 3, 4], "<f4").tobytes(),
        np.array([0.1], "<f8").tobytes(),
        raw(b"caf\xc3\xa9", b""),
        b"\x01\x00",
        np.array([-7], "<i4").tobytes(),
    ]


@pytest.mark.parametrize("is_raw", [True, False])
async def test_token_ids_ask_for_the_network_and_lose_their_padding(is_raw: bool) -> None:
    ids, mask, types = [5, 6, 7, 8, 9, 0], [1, 1, 1, 1, 1, 0], [0, 0, 1, 0, 1, 0]
    named = {"input_ids": ids, "attention_mask": mask, "token_type_ids": types}
    if is_raw:
        message = request(
            *(tensor("INT64", (2, 3), name) for name in named),
            raw_input_contents=[np.array(values, "<i8").tobytes() for values in named.values()],
        )
    else:
        message = request(*(tensor("INT64", (2, 3), name, int64_contents=v) for name, v in named.items()))
    async with serve() as served:
        await served.call("ModelInfer", message)
        (seen,) = served.model.requests
    assert seen.instances == [TokenIds([5, 6, 7], [0, 0, 1]), TokenIds([8, 9], [0, 1])]
    assert (seen.raw, seen.raw_length, seen.form) == (True, 3, "tensors")


async def test_parameters_of_every_kind_reach_the_model() -> None:
    message = texts("a")
    message.parameters["return_labels"].bool_param = True
    message.parameters["top_k"].int64_param = 3
    message.parameters["dimensions"].uint64_param = 64
    message.parameters["truncation"].string_param = "left"
    message.parameters["targets"].string_param = '["paris", "rome"]'
    message.parameters["temperature"].double_param = 0.5
    message.parameters["empty"].SetInParent()
    async with serve() as served:
        await served.call("ModelInfer", message)
        assert served.model.requests[0].params == Params(
            return_labels=True, top_k=3, dimensions=64, truncation="left", targets=["paris", "rome"], temperature=0.5
        )


async def test_only_the_outputs_asked_for_are_sent_in_that_order() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        outputs = [Tensor(name, "INT64", (1,), np.array([number])) for number, name in enumerate("abc")]
        return InferResponse(request.model_name, request.id, outputs=outputs)

    async with serve(answer) as served:
        wanted = await served.call("ModelInfer", texts("x", outputs=[{"name": "c"}, {"name": "a"}]))
        assert [output.name for output in wanted.outputs] == ["c", "a"]
        status, details = await served.refused("ModelInfer", texts("x", outputs=[{"name": "z"}]))
    assert status == "INVALID_ARGUMENT"
    assert details.startswith("Unexpected inference output 'z' for model 'm'")


async def test_truncation_and_the_request_id_are_told_in_trailing_metadata() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        output = Tensor("output-0", "INT64", (1,), np.array([1]))
        return InferResponse(request.model_name, request.id, outputs=[output], tokens_dropped=12)

    async with serve(answer) as served:
        call = served.channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")(
            texts("a").SerializeToString(), metadata=(("x-request-id", "from-the-caller"),)
        )
        answered = pb.ModelInferResponse.FromString(await call)
        trailing = dict(await call.trailing_metadata())
    assert trailing == {"x-request-id": "from-the-caller", "x-modelserve-tokens-dropped": "12"}
    assert answered.parameters["tokens_dropped"].int64_param == 12


BAD_INPUTS = [
    ("no inputs", request(), "inputs is empty"),
    (
        "both raw and contents",
        request(tensor(bytes_contents=[b"a"]), raw_input_contents=[raw(b"a")]),
        "contents field must not be specified when using raw_input_contents for input 'input-0' for model 'm'",
    ),
    (
        "more raw contents than inputs",
        request(tensor(), raw_input_contents=[raw(b"a"), raw(b"b")]),
        "the number of inputs (1) does not match the expected number of raw input contents (2) for model 'm'.",
    ),
    ("raw contents without inputs", request(raw_input_contents=[raw(b"a")]), "the number of inputs (0)"),
    ("unknown datatype", request(tensor("STRING", bytes_contents=[b"a"])), "has datatype 'STRING'; V2 knows BYTES"),
    ("no datatype", request(tensor("", bytes_contents=[b"a"])), "has datatype ''"),
    ("texts as numbers", request(tensor("FP32", fp32_contents=[1.0])), "is FP32. Send one BYTES input"),
    ("elements in another field", request(tensor("BYTES", int_contents=[1])), "belong in bytes_contents"),
    ("FP16 typed", request(tensor("FP16", fp32_contents=[1.0])), "travels in raw_input_contents only"),
    ("out of range", request(tensor("INT8", int_contents=[300])), "has elements that are no INT8"),
    ("shape too large", request(tensor(shape=(2,), bytes_contents=[b"a"])), "has 1 elements, but its shape [2] has 2"),
    ("raw shape too large", request(tensor(shape=(3,)), raw_input_contents=[raw(b"a")]), "has 1 elements, but"),
    ("raw shape too small", request(tensor(), raw_input_contents=[raw(b"a", b"b")]), "has more than 1 elements"),
    ("negative shape", request(tensor(shape=(-1,), bytes_contents=[b"a"])), "sizes are 0 or more"),
    ("negative shapes, positive product", request(tensor(shape=(-1, -1), bytes_contents=[b"a"])), "sizes are 0"),
    ("overflowing shape", request(tensor(shape=(2**62, 4), bytes_contents=[])), "too large"),
    ("overflowing shape of nothing", request(tensor(shape=(0, 2**62, 2**62), bytes_contents=[])), "too large"),
    ("65 dimensions", request(tensor(shape=(1,) * 65, bytes_contents=[b"a"])), "too large"),
    ("three columns", request(tensor(shape=(1, 3), bytes_contents=[b"a"] * 3)), "N pairs of texts [N, 2]"),
    ("scalar", request(tensor(shape=(), bytes_contents=[b"a"])), "N texts are [N]"),
    ("no texts", request(tensor(shape=(0,), bytes_contents=[])), "is empty; send at least one text"),
    ("cut length", request(tensor(), raw_input_contents=[b"\x03\x00"]), "ends in the middle of its element 0"),
    ("cut text", request(tensor(), raw_input_contents=[b"\x03\x00\x00\x00ab"]), "ends in the middle of its element 0"),
    ("endless text", request(tensor(), raw_input_contents=[b"\xff\xff\xff\xffab"]), "ends in the middle"),
    ("invalid UTF-8", request(tensor(bytes_contents=[b"\xff\xfe"])), "Element 0 of input 'input-0' is not UTF-8"),
    ("ids too few", request(tensor("INT64", (1, 2), "input_ids", int64_contents=[1])), "has 1 elements, but"),
    ("ids raw too few", request(tensor("INT64", (1, 2), "input_ids"), raw_input_contents=[b"12345678"]), "has 8 bytes"),
    ("flat ids", request(tensor("INT64", (2,), "input_ids", int64_contents=[1, 2])), "it must be [N, L]"),
    ("float ids", request(tensor("FP32", (1, 1), "input_ids", fp32_contents=[1.0])), "it must be INT64"),
    ("text ids", request(tensor("BYTES", (1, 1), "input_ids", bytes_contents=[b"1"])), "it must be INT64"),
    ("empty row of ids", request(tensor("INT64", (1, 0), "input_ids", int64_contents=[])), "a row without tokens"),
    (
        "mask of another shape",
        request(
            tensor("INT64", (1, 2), "input_ids", int64_contents=[1, 2]),
            tensor("INT64", (1, 1), "attention_mask", int64_contents=[1]),
        ),
        "attention_mask has shape [1, 1]; it must be [1, 2]",
    ),
    (
        "left padding",
        request(
            tensor("INT64", (1, 2), "input_ids", int64_contents=[1, 2]),
            tensor("INT64", (1, 2), "attention_mask", int64_contents=[0, 1]),
        ),
        "padding goes behind the tokens",
    ),
    (
        "wrong parameter",
        texts("a", parameters={"top_k": {"string_param": "many"}}),
        "top_k: expected `int | null`, got `str`",
    ),
    (
        "list that is no list",
        texts("a", parameters={"targets": {"string_param": "[paris"}}),
        "parameters.targets is a list written as a JSON string",
    ),
]


@pytest.mark.parametrize(("message", "told"), [row[1:] for row in BAD_INPUTS], ids=[row[0] for row in BAD_INPUTS])
async def test_bad_input_is_the_callers(message: Any, told: str) -> None:
    async with serve() as served:
        status, details = await served.refused("ModelInfer", message)
        assert status == "INVALID_ARGUMENT"
        assert told in details
        assert not served.model.requests
        assert (await served.call("ModelInfer", texts("still there"))).outputs


async def test_bytes_that_are_no_message_get_a_clean_status() -> None:
    noise = random.Random(7)
    async with serve() as served:
        method = f"/{pb.SERVICE.full_name}/ModelInfer"
        assert await served.refused("ModelInfer", b"\xff" * 20) == (
            "INVALID_ARGUMENT",
            "The message is no inference.ModelInferRequest.",
        )
        # A string field that is not UTF-8.
        assert (await served.refused("ModelInfer", b"\x0a\x02\xff\xfe"))[0] == "INVALID_ARGUMENT"
        for _ in range(300):
            data = noise.randbytes(noise.randrange(1, 60))
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.channel.unary_unary(method)(data, timeout=20)
            assert caught.value.code().name in ("INVALID_ARGUMENT", "NOT_FOUND"), data
        whole = texts("one", "two", id="x").SerializeToString()
        for _ in range(300):
            data = bytearray(whole)
            data[noise.randrange(len(data))] = noise.randrange(256)
            call = served.channel.unary_unary(method)(bytes(data), timeout=20)
            assert (await call.code()).name in ("OK", "INVALID_ARGUMENT", "NOT_FOUND"), data


async def test_an_unknown_method_is_unimplemented() -> None:
    async with serve() as served:
        for method in (f"/{pb.SERVICE.full_name}/ModelStreamInfer", "/nobody.Service/Call"):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.channel.unary_unary(method)(b"", timeout=20)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_a_message_over_the_limit_is_refused_either_way() -> None:
    async def long(request: InferRequest) -> InferResponse:
        output = Tensor("output-0", "BYTES", (1,), [b"x" * 5000])
        return InferResponse(request.model_name, request.id, outputs=[output])

    limits = {"grpc_max_receive_message_length": 3000, "grpc_max_send_message_length": 4000}
    async with serve(long, **limits) as served:
        assert (await served.refused("ModelInfer", texts("x" * 4000)))[0] == "RESOURCE_EXHAUSTED"
        assert (await served.refused("ModelInfer", texts("x")))[0] == "RESOURCE_EXHAUSTED"


async def test_a_compressed_message_counts_as_what_it_unpacks_to() -> None:
    async with serve() as served:
        call = served.channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(texts("x" * 9_000_000).SerializeToString(), timeout=20, compression=grpc.Compression.Gzip)
        assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        answer = await call(texts("x" * 1_000_000).SerializeToString(), timeout=20, compression=grpc.Compression.Gzip)
    assert list(pb.ModelInferResponse.FromString(answer).outputs[0].contents.int64_contents) == [1_000_000]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidRequest("Text 3 has no mask."), "INVALID_ARGUMENT"),
        (Overloaded("The queue is full.", retry_after_s=2), "RESOURCE_EXHAUSTED"),
        (InferenceFailed("The model failed on this text."), "INTERNAL"),
    ],
)
async def test_errors_have_the_status_of_the_table(error: ModelServeError, code: str) -> None:
    async def fail(request: InferRequest) -> InferResponse:
        raise error

    async with serve(fail) as served:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await served.call("ModelInfer", texts("a"))
    assert (caught.value.code().name, caught.value.details()) == (code, error.message)
    trailing = dict(caught.value.trailing_metadata())
    assert trailing["x-request-id"]
    assert trailing.get("retry-after") == ("2" if isinstance(error, Overloaded) else None)


async def test_a_fault_of_ours_is_internal_and_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def fault(request: InferRequest) -> InferResponse:
        raise RuntimeError("secret of another caller")

    async with serve(fault) as served:
        status, details = await served.refused("ModelInfer", texts("a"))
    assert status == "INTERNAL"
    assert "secret" not in details
    assert "RuntimeError" not in details
    assert "secret of another caller" in caplog.text


async def test_a_long_message_of_ours_fits_into_a_header() -> None:
    async def fail(request: InferRequest) -> InferResponse:
        raise InvalidRequest("語" * 100_000)

    async with serve(fail) as served:
        status, details = await served.refused("ModelInfer", texts("a"))
    assert status == "INVALID_ARGUMENT"
    assert details.startswith("語語")
    assert details.endswith("…")


@pytest.mark.parametrize("end", ["deadline", "cancel", "channel"])
async def test_a_caller_who_goes_away_cancels_the_inference(end: str) -> None:
    started, ended = asyncio.Event(), asyncio.Event()

    async def never(request: InferRequest) -> InferResponse:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        raise AssertionError

    async with serve(never) as served:
        call = served.channel.unary_unary(f"/{pb.SERVICE.full_name}/ModelInfer")(
            texts("a").SerializeToString(), timeout=0.3 if end == "deadline" else 60
        )
        code = asyncio.ensure_future(call.code())
        await asyncio.wait_for(started.wait(), 20)
        if end == "cancel":
            call.cancel()
        elif end == "channel":
            await served.channel.close()
        await asyncio.wait_for(ended.wait(), 20)
        assert await code is (grpc.StatusCode.DEADLINE_EXCEEDED if end == "deadline" else grpc.StatusCode.CANCELLED)


async def test_the_servers_own_timeout_is_a_deadline() -> None:
    async def never(request: InferRequest) -> InferResponse:
        await asyncio.Event().wait()
        raise AssertionError

    async with serve(never, request_timeout=0.1) as served:
        status, details = await served.refused("ModelInfer", texts("a"))
    assert status == "DEADLINE_EXCEEDED"
    assert "0.1 s of --request_timeout" in details


async def test_a_timeout_within_the_model_is_not_taken_for_the_servers() -> None:
    async def fault(request: InferRequest) -> InferResponse:
        raise TimeoutError("some socket")

    async with serve(fault) as served:
        assert (await served.refused("ModelInfer", texts("a")))[0] == "INTERNAL"


async def test_each_call_leaves_one_line_and_probes_none(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modelserve.request")
    async with serve() as served:
        await served.call("ModelInfer", texts("a", "b"))
        await served.refused("ModelInfer", request())
        await served.call("ServerLive")
        await served.call("ModelReady", name="m")
    lines = [record.getMessage() for record in caplog.records if record.name == "modelserve.request"]
    assert len(lines) == 2
    assert all("api=grpc" in line and "/inference.GRPCInferenceService/ModelInfer" in line for line in lines)
    assert "code=OK" in lines[0]
    assert "texts=2" in lines[0]
    assert "code=INVALID_ARGUMENT" in lines[1]


async def test_load_and_unload_are_off_unless_allowed() -> None:
    async with serve() as served:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            status, details = await served.refused(method, model_name="m")
            assert status == "UNIMPLEMENTED"
            assert "--enable_model_control" in details
        assert served.model.ready


@pytest.mark.parametrize("name_field", ["model_name", "triton_model_name"])
async def test_load_and_unload_change_what_is_served(name_field: str) -> None:
    async with serve(enable_model_control=True) as served:
        gone = await served.call("RepositoryModelUnload", **{name_field: "m"})
        assert (gone.model_name, gone.isUnloaded) == ("m", True)
        assert not (await served.call("ServerReady")).ready
        assert (await served.refused("ModelInfer", texts("a")))[0] == "NOT_FOUND"
        (entry,) = (await served.call("RepositoryIndex")).models
        assert (entry.name, entry.state, entry.reason) == ("m", "UNAVAILABLE", "it has been unloaded")
        assert not (await served.call("RepositoryIndex", ready=True)).models
        back = await served.call("RepositoryModelLoad", **{name_field: "m"})
        assert (back.model_name, back.isLoaded) == ("m", True)
        assert (await served.call("ServerReady")).ready
        (entry,) = (await served.call("RepositoryIndex", ready=True)).models
        assert (entry.version, entry.state, entry.reason) == ("1", "READY", "")


async def test_load_and_unload_refuse_what_they_cannot_do() -> None:
    async with serve(enable_model_control=True) as served:
        for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
            assert (await served.refused(method, model_name="nope"))[0] == "NOT_FOUND"
            assert (await served.refused(method))[0] == "INVALID_ARGUMENT"
        served.model.reason = "broken"
        assert await served.refused("RepositoryModelLoad", model_name="m") == (
            "INTERNAL",
            "The weights are gone.",
        )


async def test_health_follows_readiness() -> None:
    async with serve() as served:
        health = health_pb2_grpc.HealthStub(served.channel)
        known = ("", "inference.GRPCInferenceService", "m")
        serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

        async def check(name: str) -> int:
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=20)
            return int(answer.status)

        assert [await check(name) for name in known] == [serving] * 3
        watch = health.Watch(health_pb2.HealthCheckRequest(service="m"), timeout=20)
        assert (await watch.read()).status == serving
        served.model.stage = "load"
        assert [await check(name) for name in known] == [not_serving] * 3
        assert (await watch.read()).status == not_serving
        listed = await health.List(health_pb2.HealthListRequest(), timeout=20)
        assert {name: answer.status for name, answer in listed.statuses.items()} == dict.fromkeys(known, not_serving)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await check("nope")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        # Draining ends the watch, so that it does not hold up the end of the server.
        served.model.stage, served.models.draining = "ready", True
        assert [await check(name) for name in known] == [not_serving] * 3
        assert await watch.read() is grpc.aio.EOF


async def test_reflection_shows_the_service_without_our_proto() -> None:
    async with serve() as served:
        stub = reflection_pb2_grpc.ServerReflectionStub(served.channel)
        Request = reflection_pb2.ServerReflectionRequest
        asked = [
            Request(list_services=""),
            Request(file_containing_symbol="inference.GRPCInferenceService"),
            Request(file_containing_symbol="grpc.health.v1.Health"),
            Request(file_containing_symbol="nobody.Service"),
        ]
        listed, ours, health, nobody = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=20)]
    assert [service.name for service in listed.list_services_response.service] == [
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
        "inference.GRPCInferenceService",
    ]
    (file,) = ours.file_descriptor_response.file_descriptor_proto
    described = FileDescriptorProto.FromString(file)
    assert {method.name for method in described.service[0].method} == {method.name for method in pb.SERVICE.methods}
    assert health.file_descriptor_response.file_descriptor_proto
    assert nobody.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


async def test_a_port_that_is_taken_is_a_sentence(capfd: pytest.CaptureFixture[str]) -> None:
    async with serve() as served:
        context = stand_in.context()
        with pytest.raises(ConfigError, match=f"gRPC cannot listen on 0.0.0.0:{served.port}"):
            await start_grpc(context, served.port)


async def test_processes_can_share_a_port() -> None:
    context = stand_in.context()
    first, port = await start_grpc(context, 0, so_reuseport=True)
    second, again = await start_grpc(context, port, so_reuseport=True)
    assert port == again
    await asyncio.gather(first.stop(None), second.stop(None))


async def test_what_runs_ends_within_the_grace_of_a_stop() -> None:
    started, go = asyncio.Event(), asyncio.Event()

    async def wait(request: InferRequest) -> InferResponse:
        started.set()
        await go.wait()
        return await lengths(request)

    async with serve(wait) as served:
        answer = asyncio.ensure_future(served.call("ModelInfer", texts("abc")))
        await started.wait()
        stopping = asyncio.ensure_future(served.server.stop(20))
        await asyncio.sleep(0)
        go.set()
        assert list((await answer).outputs[0].contents.int64_contents) == [3]
        await stopping


async def test_an_answer_of_many_elements_is_written_beside_the_event_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    threads, count = [], 50_000
    write = grpc_tensors.set_outputs

    def noted(*args: Any, **kwargs: Any) -> None:
        threads.append(threading.current_thread() is threading.main_thread())
        write(*args, **kwargs)

    monkeypatch.setattr(grpc_tensors, "set_outputs", noted)

    async def many(request: InferRequest) -> InferResponse:
        size = count if request.instances == ["many"] else 1
        return InferResponse("m", request.id, outputs=[Tensor("output-0", "BYTES", (size,), [b"{}"] * size)])

    async with serve(many) as served:
        answer = await served.call("ModelInfer", texts("many"))
        assert list(answer.outputs[0].contents.bytes_contents) == [b"{}"] * count
        await served.call("ModelInfer", texts("one"))
    assert threads == [False, True], "a small one is not worth a thread"
