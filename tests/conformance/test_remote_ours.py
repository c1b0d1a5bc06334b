"""Our server before another of these servers: it answers what transformers does, for every encoder task over every API,
and whoever asks while the other one is killed is answered rightly or told to come back."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import numpy as np
import pytest

from tests.conformance.apis import apis, ask
from tests.conformance.reference import assert_same, output, prediction
from tests.conformance.serving import Serve
from tests.models import TASKS, tiny
from tests.process import Server, started
from tests.process import serve as process

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PROTOCOLS = ("v2", "grpc-v2")
SEQUENCE = "sequence_classification"
TEXTS = [
    "Hello world [MASK]",
    "Zoë's café [MASK] in São Paulo",
    "[MASK]",
    "A server [MASK] many requests at once. " + "It sorts them by length and runs them together. " * 6,
    "The cat sat on the [MASK]. The dog slept near the door.",
]


def host(remote: Server, protocol: str) -> str:
    return f"127.0.0.1:{remote.grpc_port if protocol == 'grpc-v2' else remote.http_port}"


@pytest.fixture(scope="module")
def remotes() -> Iterator[dict[str, Server]]:
    """A server for each task."""
    with ExitStack() as stack:
        yield {
            task: stack.enter_context(process("--model_name=m", "--threads=1", "--model_dir", tiny("bert", task)))
            for task in TASKS
        }


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("task", TASKS)
async def test_answers_are_transformers(remotes: dict[str, Server], serve: Serve, task: str, protocol: str) -> None:
    path = tiny("bert", task)
    asked = {} if task == "text_embedding" else {"return_raw_logits": True}
    expected = [prediction(path, task, text, next(iter(asked), None)) for text in TEXTS]
    flags = {"predictor_host": host(remotes[task], protocol), "predictor_protocol": protocol}
    for most in (1, 4):
        served = await serve(path, predictor_max_batch_size=most, **flags)
        for api in apis(task):
            assert_same((await ask(served, api, TEXTS, **asked)).predictions, expected, 5e-5)
        crowd = [(api, i) for api in apis(task) for i in range(len(TEXTS))]
        answers = await asyncio.gather(*(ask(served, api, [TEXTS[i]], **asked) for api, i in crowd))
        for (_, i), answer in zip(crowd, answers, strict=True):
            assert_same(answer.predictions, [expected[i]], 5e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_pairs_and_ids(remotes: dict[str, Server], serve: Serve, protocol: str) -> None:
    """Token types go there, and so do ids that somebody else has made, whose answer is the network's own."""
    path, pair = tiny("bert", SEQUENCE), ("Berlin is a city", "The food was good.")
    where = host(remotes[SEQUENCE], protocol)
    served = await serve(path, predictor_max_batch_size=4, predictor_host=where, predictor_protocol=protocol)
    for api in apis(SEQUENCE):
        answer = await ask(served, api, [pair], return_raw_logits=True)
        assert_same(answer.predictions, [prediction(path, SEQUENCE, pair, "return_raw_logits")], 5e-5)
    ids = {"name": "input_ids", "shape": [1, 4], "datatype": "INT64", "data": [2, 9, 11, 3]}
    mask = ids | {"name": "attention_mask", "data": [1, 1, 1, 1]}
    front = await served.http.post(f"/v2/models/{served.name}/infer", json={"inputs": [ids, mask]})
    behind = remotes[SEQUENCE].post("/v2/models/m/infer", {"inputs": [ids, mask]})
    (one,), (other,) = front.json()["outputs"], behind.json()["outputs"]
    assert (one["name"], one["shape"]) == (other["name"], other["shape"]) == ("logits", [1, 3])
    np.testing.assert_allclose(one["data"], other["data"], atol=1e-6)
    assert output(path, SEQUENCE, TEXTS[0]).shape == (3,)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_killed_and_begun_again_under_load(protocol: str) -> None:
    path = tiny("bert", SEQUENCE)
    expected = [prediction(path, SEQUENCE, text, "return_raw_logits") for text in TEXTS]
    flags = ["--model_name=m", "--threads=1", "--model_dir", path]
    outcomes: list[int] = []
    with ExitStack() as stack:
        remote = stack.enter_context(process(*flags))
        fronted = ["--predictor_host", host(remote, protocol), f"--predictor_protocol={protocol}"]
        front = stack.enter_context(process(*flags, *fronted, "--predictor_max_batch_size=4"))
        done = asyncio.Event()

        async def caller(number: int) -> None:
            i = number % len(TEXTS)
            body = {"instances": [TEXTS[i]], "parameters": {"return_raw_logits": True}}
            async with httpx.AsyncClient(base_url=front.url, timeout=60) as client:
                while not done.is_set():
                    answer = await client.post("/v1/models/m:predict", json=body)
                    outcomes.append(answer.status_code)
                    if answer.status_code == 200:
                        assert_same(answer.json()["predictions"], [expected[i]], 5e-5)
                    else:
                        assert answer.status_code == 503, answer.text
                        assert int(answer.headers["retry-after"]) > 0
                        await asyncio.sleep(0.05)

        async def until(ready: bool) -> None:
            async with asyncio.timeout(60), httpx.AsyncClient(base_url=front.url, timeout=10) as client:
                while ((await client.get("/v2/health/ready")).status_code == 200) is not ready:  # noqa: ASYNC110
                    await asyncio.sleep(0.02)

        callers = [asyncio.create_task(caller(number)) for number in range(8)]
        async with asyncio.timeout(60):
            while len(outcomes) < 50:  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.02)
        await asyncio.to_thread(remote.stop, signal.SIGKILL)
        await until(ready=False)
        assert front.get("/v2/health/live").status_code == 200
        again = [sys.executable, "-m", "modelserve", "serve", *map(str, flags)]
        again += [f"--http_port={remote.http_port}", f"--grpc_port={remote.grpc_port}"]
        await asyncio.to_thread(stack.enter_context, started(again))
        await until(ready=True)
        answered = outcomes.count(200)
        async with asyncio.timeout(60):
            while outcomes.count(200) < answered + 50:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        done.set()
        await asyncio.gather(*callers)
    assert 503 in outcomes
    assert set(outcomes) == {200, 503}
