"""A real Triton that is slow, full, wrong, killed or stopped: every answer of ours is right, or says what happened, and
the server is well again by itself.

What Triton runs is in tests/triton_models.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conformance.apis import Refused, ask
from tests.conformance.reference import assert_same, prediction, tokenizer
from tests.conformance.serving import Serve, Served
from tests.models import tiny
from tests.process import Server
from tests.process import serve as served_process
from tests.triton import Triton, triton
from tests.triton_models import Model, forget, seen, write

pytestmark = [pytest.mark.slow, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

PROTOCOLS = ("v2", "grpc-v2")
TASK = "sequence_classification"
TEXTS = ["Hello world", "The cat sat on the mat.", "a", "Berlin is the capital of Germany. " * 4]
MARKED = "The price rose by 3 %"
"""The only text with the token for which a model is slow, or raises."""
DELAY_S = 8.0
WRONG = ("a text less", "a text more", "a class less", "a dimension more")
ATOL = 5e-5


@dataclass(frozen=True)
class Running:
    server: Triton
    repository: Path


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny("bert", TASK)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, path: Path) -> Iterator[Running]:
    marked = tokenizer(path).convert_tokens_to_ids("%")
    assert all(marked not in tokenizer(path)(text)["input_ids"] for text in TEXTS)
    repository = tmp_path_factory.mktemp("repository")
    write(
        repository,
        Model("steady", path, TASK),
        Model("slow", path, TASK, delay_s=DELAY_S, slow_id=marked, instances=3),
        Model("raises", path, TASK, refuses=marked),
        Model("full", path, TASK, max_batch_size=1, delay_s=0.2, queue=1),
        *(Model(how.replace(" ", "-"), path, TASK, answers=how) for how in WRONG),
    )
    with triton(repository) as server:
        yield Running(server, repository)


async def before(running: Running, serve: Serve, path: Path, name: str, protocol: str, **flags: Any) -> Served:
    return await serve(
        path,
        model_name=name,
        predictor_host=running.server.host(protocol),
        predictor_protocol=protocol,
        **flags,
    )


async def logits(served: Served, *texts: str) -> Any:
    return (await ask(served, "v1", texts, return_raw_logits=True)).predictions


def expected(path: Path, *texts: str) -> Any:
    return [prediction(path, TASK, text, "return_raw_logits") for text in texts]


async def until(condition: Callable[[], Any], what: str, timeout_s: float = 30) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        await asyncio.sleep(0.02)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_slow_one_is_given_up_in_time(running: Running, serve: Serve, path: Path, protocol: str) -> None:
    served = await before(running, serve, path, "slow", protocol, predictor_request_timeout_seconds=2)
    forget(running.repository, "slow")
    began = time.monotonic()
    late = asyncio.create_task(logits(served, MARKED))
    await until(lambda: seen(running.repository, "slow"), "Triton has the slow request")
    assert_same(
        await logits(served, *TEXTS), expected(path, *TEXTS), ATOL
    )  # by another copy of the model, of which a test blocks one
    assert not late.done()
    with pytest.raises(Refused, match="did not answer within") as refused:
        await late
    assert time.monotonic() - began < DELAY_S
    assert refused.value.status == 504
    assert_same(await logits(served, *TEXTS), expected(path, *TEXTS), ATOL)
    assert (await served.http.get("/v2/health/ready")).status_code == 200


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("how", WRONG)
async def test_wrong_shapes_are_no_answers(running: Running, serve: Serve, path: Path, how: str, protocol: str) -> None:
    served = await before(running, serve, path, how.replace(" ", "-"), protocol)
    for texts in (TEXTS, TEXTS[:1]):
        with pytest.raises(Refused) as refused:
            await logits(served, *texts)
        assert refused.value.status == 502
        if how != "a text less":  # of a text alone: no tensor that Triton's Python backend can make, and it says so
            assert "was asked for" in str(refused.value)
        assert str(path) not in str(refused.value)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_what_it_raises_for_is_one_callers_trouble(
    running: Running, serve: Serve, path: Path, protocol: str
) -> None:
    served = await before(running, serve, path, "raises", protocol)
    texts = [MARKED if n % 11 == 5 else TEXTS[n % len(TEXTS)] for n in range(33)]
    answers = await asyncio.gather(*(logits(served, text) for text in texts), return_exceptions=True)
    for text, answer in zip(texts, answers, strict=True):
        if text == MARKED:
            assert isinstance(answer, Refused)
            assert answer.status == 502
            assert "is not for this model" in str(answer)
        else:
            assert_same(answer, expected(path, text), ATOL)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_a_full_queue(running: Running, serve: Serve, path: Path, protocol: str) -> None:
    """Is 429 to those that did not fit, and nobody else; further tries bring all of them in."""
    texts = [TEXTS[n % len(TEXTS)] for n in range(16)]
    served = await before(running, serve, path, "full", protocol)
    answers = await asyncio.gather(*(logits(served, text) for text in texts), return_exceptions=True)
    refused = [answer for answer in answers if isinstance(answer, Refused)]
    for text, answer in zip(texts, answers, strict=True):
        if not isinstance(answer, Refused):
            assert_same(answer, expected(path, text), ATOL)
    assert {answer.status for answer in refused} == {429}
    assert all("Exceeds maximum queue size" in str(answer) for answer in refused)
    assert len(refused) < len(texts)
    assert (await served.http.get("/v2/health/ready")).status_code == 200

    patient = await before(running, serve, path, "full", protocol, predictor_request_retries=100)
    answers = await asyncio.gather(*(logits(patient, text) for text in texts))
    assert_same([answer[0] for answer in answers], expected(path, *texts), ATOL)


@dataclass
class Load:
    """Callers of a server, each with one text, until `stop`."""

    server: Server
    path: Path
    name: str
    stopped: threading.Event = field(default_factory=threading.Event)
    right: int = 0
    lost: int = 0
    wrong: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.threads = [threading.Thread(target=self._run, args=(text,)) for text in TEXTS * 2]
        for thread in self.threads:
            thread.start()

    def stop(self) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(60)
        assert not any(thread.is_alive() for thread in self.threads)

    def _run(self, text: str) -> None:
        body = {"instances": [text], "parameters": {"return_raw_logits": True}}
        wanted = expected(self.path, text)
        with httpx.Client(base_url=self.server.url, timeout=60) as http:
            while not self.stopped.wait(0.01):
                self._judge(http.post(f"/v1/models/{self.name}:predict", json=body), wanted)

    def _judge(self, answer: httpx.Response, wanted: Any) -> None:
        if answer.status_code == 503 and int(answer.headers["retry-after"]) > 0:
            self.lost += 1
            return
        try:
            assert answer.status_code == 200, answer.text
            assert_same(answer.json()["predictions"], wanted, ATOL)
            self.right += 1
        except AssertionError as error:
            self.wrong.append(str(error))


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_killed_and_started_again_under_load(tmp_path: Path, path: Path, protocol: str) -> None:
    """Answers are right, or 503 with the time to come back; the server is not ready meanwhile and recovers alone."""
    repository = write(tmp_path / "repository", Model("steady", path, TASK, delay_s=0.02))
    with (
        triton(repository) as remote,
        served_process(
            "--model_name=steady",
            "--model_dir",
            path,
            f"--predictor_host={remote.host(protocol)}",
            f"--predictor_protocol={protocol}",
        ) as server,
    ):
        load = Load(server, path, "steady")
        try:
            for _ in range(2):
                right = load.right
                await until(lambda right=right: load.right > right + 40 or load.wrong, "forty right answers")
                lost = load.lost
                remote.kill()
                await until(lambda: server.get("/v2/health/ready").status_code == 503, "not ready")
                await until(lambda lost=lost: load.lost > lost + 10 or load.wrong, "ten lost ones")
                assert server.get("/v2/health/live").status_code == 200
                assert server.get("/v2/health/ready").status_code == 503
                remote.restart()
                await until(lambda: server.get("/v2/health/ready").status_code == 200, "ready again")
            right = load.right
            await until(lambda: load.right > right + 40 or load.wrong, "forty right answers at last")
        finally:
            load.stop()
        assert load.wrong == []
        assert server.stop() == 0


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_stopped_and_continued(tmp_path: Path, path: Path, protocol: str) -> None:
    """One that hangs, whose connections stay open: 504 in time, then not ready, then well again."""
    repository = write(tmp_path / "repository", Model("steady", path, TASK))
    body = {"instances": TEXTS, "parameters": {"return_raw_logits": True}}
    with (
        triton(repository) as remote,
        served_process(
            "--model_name=steady",
            "--model_dir",
            path,
            f"--predictor_host={remote.host(protocol)}",
            f"--predictor_protocol={protocol}",
            "--predictor_request_timeout_seconds=1",
        ) as server,
    ):
        assert_same(
            server.post("/v1/models/steady:predict", json=body).json()["predictions"], expected(path, *TEXTS), ATOL
        )
        os.killpg(remote.process.pid, signal.SIGSTOP)
        try:
            assert server.post("/v1/models/steady:predict", json=body).status_code == 504
            await until(lambda: server.get("/v2/health/ready").status_code == 503, "not ready")
            assert server.post("/v1/models/steady:predict", json=body).status_code == 503
        finally:
            os.killpg(remote.process.pid, signal.SIGCONT)
        await until(lambda: server.get("/v2/health/ready").status_code == 200, "ready again")
        answer = server.post("/v1/models/steady:predict", json=body)
        assert_same(answer.json()["predictions"], expected(path, *TEXTS), ATOL)


@pytest.mark.parametrize("protocol", PROTOCOLS)
async def test_one_that_is_not_there_yet_is_waited_for(tmp_path: Path, path: Path, protocol: str) -> None:
    repository = write(tmp_path / "repository", Model("steady", path, TASK))
    with triton(repository, ready=False) as remote:
        remote.kill()
        with served_process(
            "--model_name=steady",
            "--model_dir",
            path,
            f"--predictor_host={remote.host(protocol)}",
            f"--predictor_protocol={protocol}",
            ready=False,
        ) as server:
            await until(lambda: "reached" in server.log or "not available" in server.log, "says what it waits for")
            assert server.get("/v2/health/ready").status_code == 503
            remote.restart()
            server.wait_ready()
            body = {"instances": TEXTS, "parameters": {"return_raw_logits": True}}
            answer = server.post("/v1/models/steady:predict", json=body)
            assert_same(answer.json()["predictions"], expected(path, *TEXTS), ATOL)
