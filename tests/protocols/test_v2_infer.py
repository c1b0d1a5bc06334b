"""V2 over REST and over gRPC gives the same tensors of the same models, in each of the forms that they travel in."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import pytest_asyncio

from modelserve import pb
from modelserve.backends.huggingface import HuggingFaceBackend
from modelserve.config import Config
from modelserve.protocols import tensors
from modelserve.protocols.context import Context
from modelserve.protocols.grpc import start_grpc
from modelserve.protocols.grpc_tensors import FIELDS
from modelserve.protocols.http import build_app
from modelserve.runtime import metrics
from modelserve.runtime.model import Model, Models
from tests.models import TASKS, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = {
    "fill_mask": ["The capital of France is [MASK].", "[MASK] jumps over the lazy [MASK]."],
    "text_embedding": ["The capital of France is Paris.", "Doctor Müller flew to São Paulo, 語."],
}
TEXTS |= dict.fromkeys(("sequence_classification", "token_classification"), TEXTS["text_embedding"])
PARAMETERS: dict[str, list[dict[str, Any]]] = {
    "sequence_classification": [{"return_probabilities": True}, {"return_raw_logits": True}, {"top_k": 2}],
    "token_classification": [{"return_offsets_mapping": True}, {"aggregation_strategy": "simple"}],
    "fill_mask": [{"top_k": 3}, {"targets": '["paris", "cat"]'}, {"return_probabilities": True}],
    "text_embedding": [{"normalize": False}, {"truncation": False}],
}

Answer = dict[str, tuple[str, list[int], list[Any]]]
"""Name -> datatype, shape, elements."""


def stub(channel: grpc.aio.Channel) -> Any:
    """ModelInfer, called with its message."""
    return channel.unary_unary(
        f"/{pb.SERVICE.full_name}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )


class Served:
    """One model behind both APIs."""

    def __init__(self, client: httpx.AsyncClient, channel: grpc.aio.Channel) -> None:
        self.client = client
        self.infer = stub(channel)

    async def rest(self, inputs: list[dict[str, Any]], parameters: dict[str, Any], *, binary: bool) -> Answer:
        body = {"inputs": inputs, "parameters": {**parameters, "binary_data_output": binary}}
        answer = await self.client.post("/v2/models/model/infer", json=body)
        assert answer.status_code == 200, answer.text
        size = int(answer.headers.get("inference-header-content-length", len(answer.content)))
        outputs, raw = json.loads(answer.content[:size])["outputs"], memoryview(answer.content)[size:]
        found: Answer = {}
        for output in outputs:
            data = output.get("data")
            if data is None:
                length = output["parameters"]["binary_data_size"]
                data, raw = of_bytes(output, raw[:length]), raw[length:]
            found[output["name"]] = (output["datatype"], output["shape"], data)
        return found

    async def grpc(self, inputs: list[dict[str, Any]], parameters: dict[str, Any], *, raw: bool) -> Answer:
        request = pb.ModelInferRequest(model_name="model")
        for name, value in parameters.items():
            kind = {bool: "bool_param", int: "int64_param", str: "string_param"}[type(value)]
            setattr(request.parameters[name], kind, value)
        for tensor in inputs:
            shape, datatype = tensor["shape"], tensor["datatype"]
            data = [text.encode() for text in tensor["data"]] if datatype == "BYTES" else tensor["data"]
            message = request.inputs.add(name=tensor["name"], datatype=datatype, shape=shape)
            if raw:
                value = tensors.of_values(tensor["name"], datatype, shape, data)
                request.raw_input_contents.append(tensors.to_bytes(value))
            else:
                getattr(message.contents, FIELDS[datatype]).extend(data)
        answer = await self.infer(request, timeout=60)
        assert bool(answer.raw_output_contents) is raw
        found: Answer = {}
        for index, output in enumerate(answer.outputs):
            described = {"name": output.name, "datatype": output.datatype, "shape": list(output.shape)}
            if raw:
                data = of_bytes(described, answer.raw_output_contents[index])
            else:
                data = list(getattr(output.contents, FIELDS[output.datatype]))
                data = [text.decode() for text in data] if output.datatype == "BYTES" else data
            found[output.name] = (output.datatype, list(output.shape), data)
        return found


def of_bytes(output: dict[str, Any], raw: Any) -> list[Any]:
    return list(tensors.elements(tensors.of_bytes(output["name"], output["datatype"], output["shape"], raw)))


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=TASKS)
async def served(request: pytest.FixtureRequest) -> AsyncIterator[tuple[str, Served]]:
    config = Config(model_dir=str(tiny("bert", request.param)), task=request.param, threads=1)
    model = Model(config)
    await model.load()
    context = Context(config, Models([model]))
    server, port = await start_grpc(context, 0)
    transport = httpx.ASGITransport(build_app(context))
    async with (
        httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60) as client,
        grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel,
    ):
        yield request.param, Served(client, channel)
    await server.stop(None)
    model.close()


def same(answer: Answer, expected: Answer) -> None:
    assert list(answer) == list(expected)
    for name, (datatype, shape, data) in expected.items():
        assert answer[name][:2] == (datatype, shape)
        if datatype != "BYTES":
            np.testing.assert_allclose(answer[name][2], data, atol=1e-5)
        else:
            for ours, theirs in zip(answer[name][2], data, strict=True):
                assert element(ours) == near(element(theirs))


def element(text: str) -> Any:
    """An element of BYTES: a word, or a JSON object."""
    return json.loads(text) if text.startswith("{") else text


def near(value: Any) -> Any:
    """The same with numbers to the tolerance of two forward passes."""
    if isinstance(value, dict):
        return {key: near(one) for key, one in value.items()}
    return pytest.approx(value, abs=1e-4) if isinstance(value, float) else value


async def all_ways_agree(server: Served, inputs: list[dict[str, Any]], parameters: dict[str, Any]) -> Answer:
    plain = await server.rest(inputs, parameters, binary=False)
    same(await server.rest(inputs, parameters, binary=True), plain)
    same(await server.grpc(inputs, parameters, raw=True), plain)
    same(await server.grpc(inputs, parameters, raw=False), plain)
    return plain


async def test_texts(served: tuple[str, Served]) -> None:
    task, server = served
    inputs = [{"name": "text", "shape": [2], "datatype": "BYTES", "data": TEXTS[task]}]
    for parameters in ({}, *PARAMETERS[task]):
        answer = await all_ways_agree(server, inputs, parameters)
        assert answer["output-0"][1][0] == 2


async def test_token_ids(served: tuple[str, Served]) -> None:
    task, server = served
    ids = {"name": "input_ids", "shape": [2, 4], "datatype": "INT64", "data": [2, 20, 30, 3, 2, 3, 0, 0]}
    mask = {"name": "attention_mask", "shape": [2, 4], "datatype": "INT64", "data": [1, 1, 1, 1, 1, 1, 0, 0]}
    answer = await all_ways_agree(server, [ids, mask], {})
    ((name, (datatype, shape, data)),) = answer.items()
    assert (name, datatype) == ("last_hidden_state" if task == "text_embedding" else "logits", "FP32")
    if task == "sequence_classification":
        assert shape == [2, 3]
    else:
        assert shape[:2] == [2, 4]
        assert not np.any(np.reshape(data, shape)[1, 2:])


async def test_pairs(served: tuple[str, Served]) -> None:
    task, server = served
    inputs = [{"name": "pairs", "shape": [1, 2], "datatype": "BYTES", "data": TEXTS["text_embedding"]}]
    if task == "sequence_classification":
        answer = await all_ways_agree(server, inputs, {"return_raw_logits": True})
        assert answer["output-0"][1] == [1]
        return
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await server.grpc(inputs, {}, raw=True)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110  threads tell of nothing here by an event
            await asyncio.sleep(0.01)


async def test_a_caller_who_goes_away_frees_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(model_dir=str(tiny("bert", "text_embedding")), threads=1)
    model = Model(config)
    await model.load()
    gate, seen = threading.Event(), []
    forward = HuggingFaceBackend.forward

    def gated(self: HuggingFaceBackend, encodings: list[Any], *args: Any, **kwargs: Any) -> list[Any]:
        seen.extend(encoding.text for encoding in encodings)
        gate.wait(60)
        return forward(self, encodings, *args, **kwargs)

    monkeypatch.setattr(HuggingFaceBackend, "forward", gated)
    server, port = await start_grpc(Context(config, Models([model])), 0)

    def request(*texts: str) -> Any:
        message = pb.ModelInferRequest(model_name="model")
        tensor = message.inputs.add(name="text", datatype="BYTES", shape=[len(texts)])
        tensor.contents.bytes_contents.extend(text.encode() for text in texts)
        return message

    def queue() -> float:
        return metrics.queue_size._value.get()

    before = queue()  # the process's: a test before this one may have left texts in a queue
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = stub(channel)
        stays = infer(request("stays"), timeout=60)
        await until(lambda: seen == ["stays"])
        goes = infer(request("goes", "away"), timeout=60)
        await until(lambda: queue() == before + 2)
        goes.cancel()
        await until(lambda: queue() == before)
        gate.set()
        assert (await stays).outputs[0].shape == [1, 32]
        assert (await infer(request("after"), timeout=60)).outputs
    assert seen == ["stays", "after"]
    await server.stop(None)
    model.close()
