"""A model whose network is elsewhere, in process: waited for, asked, lost, found again."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelserve import flags
from modelserve.errors import ConfigError, NotReady, PredictorFailed
from modelserve.runtime.model import Model
from modelserve.types import Caller, InferRequest, Params
from tests.backends.predictors import Fault, Predicting, rest
from tests.generative import tiny_generative
from tests.models import tiny

SEQUENCE = [{"name": "logits", "datatype": "FP32", "shape": [-1, 3]}]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A classifier's configuration and tokenizer, and no weights."""
    model = tmp_path / "model"
    model.mkdir()
    for file in Path(tiny("bert", "sequence_classification")).iterdir():
        if file.suffix != ".safetensors":
            shutil.copy(file, model)
    return model


def predicting(**kwargs: Any) -> Predicting:
    return Predicting(**{"outputs": SEQUENCE, **kwargs})


def model(directory: Path, port: int, **keywords: object) -> Model:
    given = {"model_dir": str(directory), "model_name": "m", "predictor_host": f"127.0.0.1:{port}", **keywords}
    return Model(flags.from_keywords(**given))


def request(*instances: str, **kwargs: Any) -> InferRequest:
    return InferRequest("m", list(instances), **kwargs)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110  no event tells
            await asyncio.sleep(0.01)


async def refused(directory: Path, port: int, **keywords: object) -> str:
    one = model(directory, port, **keywords)
    with pytest.raises(ConfigError) as caught:
        await one.load()
    return caught.value.message


async def test_it_answers_without_weights_and_says_who_computes(directory: Path) -> None:
    it = predicting()
    with rest(it) as port:
        one = model(directory, port)
        await one.load()
        asked = request("hello world", params=Params(return_raw_logits=True), caller=Caller("7"))
        answer = await one.infer(asked)
        ids = [int(id) for id in it.asked[0].tensors["input_ids"][0]]
        assert answer.predictions == [{"0": sum(ids), "1": 2.0 * sum(ids), "2": 3.0 * sum(ids)}]
        assert it.asked[0].id == "7"
        said = one.describe()
        assert said["backend"] == "remote"
        assert said["predictor_host"] == f"127.0.0.1:{port}"
        assert said["remote_server"] == "arithmetic 1"
        assert said["max_batch_size"] == 8
        await one.unload()


async def test_one_that_is_not_there_yet_is_waited_for(directory: Path) -> None:
    it = predicting()
    with rest(it) as port:
        pass
    one = model(directory, port)
    loading = asyncio.create_task(one.load())
    await until(lambda: "cannot be reached" in one.reason)
    assert (one.stage, one.ready) == ("load", False)
    it.ready = False
    with rest(it, port):
        await until(lambda: "is not ready" in one.reason)
        it.ready = True
        await asyncio.wait_for(loading, 20)
        assert (one.stage, one.reason) == ("ready", "")
        await one.unload()


async def test_one_that_goes_down_and_comes_back(directory: Path) -> None:
    it = predicting()
    with rest(it) as port:
        one = model(directory, port)
        await one.load()
        await one.infer(request("a"))
    with pytest.raises(NotReady, match="the remote predictor at") as caught:
        await one.infer(request("a"))
    assert caught.value.retry_after_s > 0
    await until(lambda: not one.ready)
    assert one.stage == "unavailable"
    assert f"the remote predictor at 127.0.0.1:{port} cannot be reached" in one.reason
    assert one.live()
    with pytest.raises(NotReady, match="is not ready: the remote predictor at"):
        await one.infer(request("a"))
    with rest(it, port):
        await until(lambda: one.ready)
        assert (one.stage, one.reason) == ("ready", "")
        await one.infer(request("a"))
        await one.unload()


async def test_a_slow_remote_is_no_reason_to_be_killed(directory: Path) -> None:
    go_on = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait(asked: object) -> None:
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(20)

    it = predicting(fault=wait)
    with rest(it) as port:
        one = model(directory, port, liveness_timeout=0.01)
        await one.load()
        answer = asyncio.create_task(one.infer(request("a")))
        await until(lambda: bool(it.asked))
        await asyncio.sleep(0.1)  # ten times --liveness_timeout
        assert one.live()
        go_on.set()
        assert len((await answer).predictions) == 1
        await one.unload()


async def test_batches_are_no_larger_than_the_remote_takes(directory: Path) -> None:
    it = predicting(config={"max_batch_size": 4, "instance_group": [{"count": 1}]})
    with rest(it) as port:
        one = model(directory, port)
        await one.load()
        answers = await asyncio.gather(*(one.infer(request(*["word " * n] * 3)) for n in range(1, 21)))
        await one.unload()
    assert [len(answer.predictions) for answer in answers] == [3] * 20
    sizes = [len(asked.tensors["input_ids"]) for asked in it.asked]
    assert sum(sizes) == 60
    assert max(sizes) == 4


async def test_an_error_is_that_texts_alone(directory: Path) -> None:
    it = predicting()
    with rest(it) as port:
        one = model(directory, port)
        await one.load()
        await one.infer(request("bad"))
        bad = int(np.max(it.asked[0].tensors["input_ids"]))
        it.fault = lambda asked: Fault(body=b'{"error": "not that"}') if bad in asked.tensors["input_ids"] else None
        texts = ["good", "fine", "bad", "well", "done"]
        answers = await asyncio.gather(*(one.infer(request(text)) for text in texts), return_exceptions=True)
        await one.unload()
    assert [isinstance(answer, PredictorFailed) for answer in answers] == [text == "bad" for text in texts]


async def test_shorter_texts_where_the_remote_takes_no_others(directory: Path) -> None:
    tensors = [{"name": name, "datatype": "INT32", "shape": [-1, 8]} for name in ("input_ids", "attention_mask")]
    it = predicting(inputs=tensors)
    with rest(it) as port:
        one = model(directory, port)
        await one.load()
        answer = await one.infer(request("word " * 50))
        assert answer.tokens == [8]
        assert answer.tokens_dropped > 0
        await one.unload()
        said = await refused(directory, port, max_length=16)
    assert said == "--max_length is 16, and the remote predictor takes 8 tokens of every text; give at most 8"


async def test_what_cannot_be_served_from_there(directory: Path, tmp_path: Path) -> None:
    outputs = [{"name": "pooled", "datatype": "FP32", "shape": [-1, 32]}]
    with rest(predicting()) as port, rest(predicting(outputs=outputs)) as other:
        assert await refused(directory, other) == (
            "the remote predictor has no output that can be the logits of every text, FP32 or FP16 or BF16 or FP64 "
            "[-1, 3]; its outputs are pooled FP32 [-1, 32]"
        )
        assert "has no model named n (--model_name); it has m, other" in await refused(directory, port, model_name="n")
        assert "--predictor_host is for the tasks" in await refused(tiny_generative("llama"), port)
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "x.joblib").write_bytes(b"")
    said = await refused(tmp_path / "tables", port)
    assert said == "--predictor_host is for Hugging Face models, and the files are sklearn's"
