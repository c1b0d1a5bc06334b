"""A model's life, in process: loaded, asked, drained, unloaded, loaded again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import numpy as np
import pytest

from modelserve import flags
from modelserve.errors import InvalidRequest, LoadError, ModelNotFound, NotReady, RequestTooLarge
from modelserve.runtime.batched import Batched
from modelserve.runtime.model import Model, Models
from modelserve.types import InferRequest, Params, TextPair, TokenIds
from tests.models import tiny


def model(**keywords: object) -> Model:
    return Model(flags.from_keywords(**{"model_dir": str(tiny("bert")), **keywords}))


@pytest.fixture
async def loaded() -> AsyncIterator[Model]:
    one = model(max_client_batch_size=5)
    await one.load()
    yield one
    one.close()


def request(*instances: object, **kwargs: object) -> InferRequest:
    return InferRequest("model", list(instances), **kwargs)  # type: ignore[arg-type]


async def test_a_model_is_not_ready_before_it_is_loaded() -> None:
    one = model()
    with pytest.raises(NotReady, match="not loaded yet"):
        await one.infer(request("x"))
    assert not one.ready
    assert one.inputs() == one.outputs() == []
    assert one.live()
    one.close()


async def test_it_answers_and_says_what_it_is(loaded: Model) -> None:
    assert loaded.ready
    assert loaded.task_name == "text_embedding"
    answer = await loaded.infer(request("hello world", "a"))
    assert [np.linalg.norm(row).round(5) for row in answer.predictions] == [1.0, 1.0]
    assert answer.timings.tokenization_s > 0
    assert answer.timings.inference_s > 0
    assert loaded.describe()["layout"] == "packed"
    assert [spec.name for spec in loaded.outputs()] == ["output-0", "last_hidden_state"]


async def test_tensors_in_tensors_out(loaded: Model) -> None:
    answer = await loaded.infer(request(TokenIds([5, 6]), TokenIds([7]), raw=True, raw_length=4, form="tensors"))
    tensor = answer.outputs[0]
    assert (tensor.name, tensor.datatype) == ("last_hidden_state", "FP32")
    assert tensor.shape[:2] == (2, 4), "as many columns as came, padding included"
    assert isinstance(tensor.data, np.ndarray)
    assert not tensor.data[1, 1:].any()
    assert tensor.data[0, :2].any()


async def test_raw_and_ordinary_requests_share_a_pass(loaded: Model) -> None:
    alone = (await loaded.infer(request("hello world"))).predictions[0]
    together = await asyncio.gather(
        loaded.infer(request("hello world")),
        loaded.infer(request(TokenIds([5, 6, 7]), raw=True, raw_length=3)),
        loaded.infer(request("hello world", params=Params(normalize=False))),
    )
    np.testing.assert_allclose(together[0].predictions[0], alone, atol=1e-5)
    assert together[1].outputs[0].shape[1] == 3


@pytest.mark.parametrize(
    ("instances", "error"),
    [
        ([], InvalidRequest),
        (["x"] * 6, RequestTooLarge),
        ([TextPair("a", "b")], InvalidRequest),
        ([TokenIds([])], InvalidRequest),
    ],
)
async def test_what_cannot_be_answered(loaded: Model, instances: list[object], error: type[Exception]) -> None:
    with pytest.raises(error):
        await loaded.infer(request(*instances))
    assert not loaded.busy()


async def test_giving_up_frees_the_queue(loaded: Model) -> None:
    held = threading.Event()
    service = loaded._service
    assert isinstance(service, Batched)  # the only way to hold a pass is to stand in it
    forward = service._backend.forward

    def holding(*args: object, **kwargs: object) -> object:
        held.wait(10)
        return forward(*args, **kwargs)  # type: ignore[arg-type]

    service._backend.forward = holding  # type: ignore[method-assign, assignment]
    asked = asyncio.create_task(loaded.infer(request("x")))
    await asyncio.sleep(0.05)
    asked.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked
    held.set()
    async with asyncio.timeout(10):
        while loaded.busy():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


async def test_unload_and_load_again(loaded: Model) -> None:
    models = Models([loaded])
    await loaded.unload()
    with pytest.raises(ModelNotFound):
        models.get("model")
    assert models.names() == []
    assert not models.ready()
    await models.find("model").load()
    assert models.get("model").ready
    assert len((await loaded.infer(request("x"))).predictions) == 1


async def test_a_draining_model_still_answers(loaded: Model) -> None:
    loaded.drain()
    assert not loaded.ready
    assert len((await loaded.infer(request("x"))).predictions) == 1


async def test_a_load_that_fails_says_why() -> None:
    one = model(task="fill_mask")
    with pytest.raises(LoadError, match="head"):
        await one.load()
    assert one.stage == "failed"
    assert "head" in one.reason
    one.close()


def test_versions_and_names() -> None:
    async def check() -> None:
        models = Models([one := model()])
        for version in (None, "", "1"):
            assert models.get("model", version) is one
        with pytest.raises(ModelNotFound, match="no version 2"):
            models.get("model", "2")
        with pytest.raises(ModelNotFound, match="Model with name other does not exist"):
            models.get("other")
        one.close()

    asyncio.run(check())
