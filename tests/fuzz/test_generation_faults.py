"""A forward pass that fails while texts are written is told to those who were in it, and to nobody else; one that never
returns turns liveness false. Injected into a real server, behind prompts that name a token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.fuzz.crowd import COMPLETIONS, LEFT, asking, metric
from tests.generative import tiny_generative
from tests.process import Server, serve

FAILS, HANGS = 301, 302
HANG_S = 8
INJECT = f"""
import time
from modelserve.backends.decoder import Decoder
step = Decoder.step
def failing(self, pieces):
    ids = [id for piece in pieces if len(piece.ids) > 1 for id in piece.ids]
    if {FAILS} in ids:
        raise RuntimeError("secret detail")
    if {HANGS} in ids:
        time.sleep({HANG_S})
    return step(self, pieces)
Decoder.step = failing
from modelserve.runtime.tokenizer import Tokenizer
encode = Tokenizer.__call__
def poisoned(self, instances, params, **options):
    if instances == ["poison"]:
        raise RuntimeError("secret poison")
    return encode(self, instances, params, **options)
Tokenizer.__call__ = poisoned
"""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]


@pytest.fixture(params=[32, 1])
def faulty(request: pytest.FixtureRequest) -> Iterator[Server]:
    """As many texts at once."""
    running = f"--max_num_seqs={request.param}"
    model = tiny_generative("llama")
    with serve(
        "--model_dir", model, "--model_name=m", "--task=text_generation", "--liveness_timeout=1", running, code=INJECT
    ) as server:
        yield server


def body(prompt: Any, tokens: int = 8) -> dict[str, Any]:
    return {"model": "m", "prompt": prompt, "temperature": 0, "ignore_eos": True, "max_tokens": tokens}


async def beside_a_stream(server: Server, prompt: list[int], alone: str) -> tuple[list[Any], tuple[int, bytes]]:
    """The events of a stream that has begun, and the answer to what came then, behind which somebody waits."""

    async def one(asked: Any) -> tuple[int, bytes]:
        async with asking(server.http_port, COMPLETIONS, body(asked)) as answer:
            await answer.begin()
            return answer.status, await answer.body()

    async with asking(server.http_port, COMPLETIONS, body("A stream", 240) | {"stream": True}) as answer:
        await answer.begin()
        parts = answer.parts()
        data = await anext(parts)
        failing = asyncio.create_task(one(prompt))
        data += b"".join([part async for part in parts])
        failed = await failing
    events = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line]
    status, content = await one("alone")
    assert status == 200, content
    assert json.loads(content)["choices"][0]["text"] == alone
    return [json.loads(event) if event != b"[DONE]" else None for event in events], failed


def test_a_step_that_fails(faulty: Server) -> None:
    alone = faulty.post(COMPLETIONS, body("alone")).json()["choices"][0]["text"]
    for _ in range(2):
        events, (status, content) = asyncio.run(beside_a_stream(faulty, [5, FAILS, 6], alone))
        assert status == 500, content
        error = json.loads(content)["error"]
        assert error["type"] == "server_error"
        assert "secret" not in error["message"]
        if "--max_num_seqs=1" in faulty.process.args:
            assert events[-1] is None  # it was not in that step
            assert sum(len(event["choices"][0]["text"]) > 0 for event in events[:-1]) > 100
        else:
            assert events[-1]["error"] == error
    assert "secret detail" in faulty.log
    assert faulty.get("/v2/health/live").status_code == 200
    assert [metric(faulty, name) for name in LEFT] == [0, 0, 0, 0]


def test_a_step_that_does_not_return(faulty: Server) -> None:
    def until_live_is(status: int) -> float:
        began = time.monotonic()
        while faulty.get("/v2/health/live").status_code != status:
            assert time.monotonic() < began + 3 * HANG_S
            time.sleep(0.05)
        return time.monotonic() - began

    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(faulty.post, COMPLETIONS, body([5, HANGS, 6]))
        assert until_live_is(503) < HANG_S
        until_live_is(200)
        assert asked.result().status_code == 200


def test_a_prompt_that_cannot_be_prepared(faulty: Server) -> None:
    answer = faulty.post(COMPLETIONS, body("poison"))
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "RuntimeError: secret poison" in faulty.log
    assert [metric(faulty, name) for name in LEFT] == [0, 0, 0, 0]


def test_sigterm_in_a_step_that_does_not_return() -> None:
    code = INJECT.replace(f"time.sleep({HANG_S})", "time.sleep(100)")
    with (
        serve("--model_dir", tiny_generative("llama"), "--model_name=m", "--shutdown_timeout=1", code=code) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        asked = pool.submit(faulty_post, server)
        while metric(server, LEFT[0]) + metric(server, LEFT[1]) == 0:
            time.sleep(0.05)  # until it is taken on; the test's own limit ends it otherwise
        assert server.stop(timeout_s=30) == 0
        asked.result()


def faulty_post(server: Server) -> None:
    with contextlib.suppress(httpx.TransportError):
        server.post(COMPLETIONS, body([5, HANGS, 6]))


def test_a_penalty_that_leaves_no_numbers_is_refused(faulty: Server) -> None:
    for penalty in (5e-324, 1e300):
        answer = faulty.post(COMPLETIONS, body("x") | {"repetition_penalty": penalty})
        assert answer.status_code == 400, answer.text
        assert answer.json()["error"]["param"] == "repetition_penalty"
