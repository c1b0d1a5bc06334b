"""The engine that is vLLM's server, against a stand-in of it (tests/fake_vllm.py) with real processes and sockets."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modelserve.backends import vllm
from modelserve.backends.engine import EngineLimits
from modelserve.backends.vllm import VllmEngine
from modelserve.backends.vllm_http import Client
from modelserve.backends.vllm_keeper import _descendants
from modelserve.backends.vllm_server import VllmServer
from modelserve.errors import InferenceFailed, InvalidRequest, LoadError, ModelServeError, NotReady
from modelserve.generation import Sampling, Sequence, Token
from modelserve.runtime.engine_vllm import await_ready
from tests.backends.ear import Ear, ear
from tests.fake_vllm import END, install, next_token

PROMPT = [300, 12, 44]
GREEDY = Sampling(temperature=0)


def sequence(prompt: list[int] = PROMPT, sampling: Sampling = GREEDY, max_tokens: int = 20, **values: Any) -> Sequence:
    wanted: dict[str, Any] = {"end_ids": frozenset({END}), "seed": 0, "sink": Ear(), "model_name": "m"}
    return Sequence(prompt=prompt, sampling=sampling, max_tokens=max_tokens, **(wanted | values))


def started(directory: Path, **settings: Any) -> VllmServer:
    python = install(directory, **settings)
    args = ("-m", "vllm.entrypoints.cli.main", "serve", "model", "--served-model-name=m", "--max-model-len=256")
    return VllmServer(lambda socket: [str(python), *args, f"--uds={socket}"], os.environ)


def processes(server: VllmServer) -> list[int]:
    """vLLM's own, and those that it started: the first is the server."""
    return list(_descendants(server._process.pid))


def until(is_so: Callable[[], bool], timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def gone(pids: list[int]) -> bool:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 0)
            return False
    return True


Start = Callable[..., tuple[VllmEngine, VllmServer]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Engines that are ready; after the test nothing of them is left."""
    engines: list[tuple[VllmEngine, VllmServer]] = []
    pids: list[int] = []

    def start(max_running: int = 8, **settings: Any) -> tuple[VllmEngine, VllmServer]:
        server = started(tmp_path, **settings)
        client = Client(server.socket)
        await_ready(server, client, lambda stage, fraction: None)
        limits = EngineLimits(context_length=256, max_running=max_running)
        engine = VllmEngine(server, client, limits=limits, end_ids={END}, about={})
        engines.append((engine, server))
        until(lambda: len(processes(server)) == 3)
        pids.extend([server._process.pid, *processes(server)])
        return engine, server

    yield start
    for engine, server in engines:
        engine.close()
        assert engine.join(15)
        assert not server.socket.parent.exists()
    until(lambda: gone(pids))


def count(engine: VllmEngine, name: str) -> float:
    """Of its metrics."""
    lines = asyncio.run(engine.metrics("text/plain")).decode().splitlines()
    return float(next(line for line in lines if line.startswith(f"vllm:{name}{{")).split()[1])


def test_every_text_is_streamed_to_its_own_sink(start: Start) -> None:
    engine, _ = start()
    crowd = [sequence([i, i + 1, 9], max_tokens=1 + i % 20) for i in range(60)]
    for one in crowd:
        engine.start(one)
    for one in crowd:
        assert ear(one).ids == [next_token(one.prompt, i) for i in range(one.max_tokens)]
        assert ear(one).finish == "length"
    until(lambda: engine.running() == engine.waiting() == 0)
    assert count(engine, "aborted") == 0


def test_an_end_token_is_put_and_ends_it(start: Start) -> None:
    engine, _ = start(ends_at=3)
    ended, going = sequence(), sequence(sampling=Sampling(ignore_eos=True), end_ids=frozenset())
    engine.start(ended)
    engine.start(going)
    assert ear(ended).ids == [*(next_token(PROMPT, i) for i in range(3)), END]
    assert ear(ended).finish == "stop"
    assert len(ear(going).ids) == 20


def test_logprobs_and_scores_of_the_prompt(start: Start) -> None:
    engine, _ = start()
    told = sequence(sampling=Sampling(logprobs=2), max_tokens=3)
    scored = sequence(sampling=Sampling(logprobs=2, prompt_logprobs=True), max_tokens=3)
    only = sequence(sampling=Sampling(logprobs=0, prompt_logprobs=True), max_tokens=0)
    for one in (told, scored, only):
        engine.start(one)
        assert len(ear(one).ids) == one.max_tokens
        assert ear(one).finish == "length"
    for one in (told, scored):
        for token in ear(one).tokens:
            assert token.logprob < 0
            assert len(token.top) == 2
            assert token.top[0][1] >= token.top[1][1]
    for one, top in ((scored, 2), (only, 0)):
        first, *others = ear(one).scores
        assert first.logprob != first.logprob  # NaN
        assert [first.id, *(token.id for token in others)] == PROMPT
        assert all(token.logprob < 0 and len(token.top) == top for token in others)
    assert ear(told).scores == []


@pytest.mark.parametrize("how", ["enough", "cancel", "cancel at once"])
def test_vllm_stops_when_nobody_listens(start: Start, how: str) -> None:
    engine, _ = start(pace_s=0.02)
    one = sequence(max_tokens=200, sink=Ear(enough=3 if how == "enough" else None))
    engine.start(one)
    if how == "cancel at once":
        engine.cancel(one)
    else:
        assert ear(one).first.wait(10)
    if how == "cancel":
        assert (engine.running(), engine.waiting()) == (1, 0)
        engine.cancel(one)
    until(lambda: engine.running() == engine.waiting() == 0)
    until(lambda: count(engine, "num_requests_running") == 0)
    assert count(engine, "aborted") == (how != "cancel at once")
    heard = len(ear(one).tokens)
    after = sequence(max_tokens=2)
    engine.start(after)
    assert len(ear(after).ids) == 2
    assert len(ear(one).tokens) == heard < 100
    assert ear(one).finish is None


def test_more_than_vllm_is_given_wait_here(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "_AT_ONCE", 2)
    engine, _ = start(max_running=1, pace_s=0.005)
    crowd = [sequence([i], max_tokens=10) for i in range(9)]
    for one in crowd:
        engine.start(one)
    assert engine.waiting() + engine.running() == 9
    for one in (crowd[1], crowd[8], crowd[5]):
        engine.cancel(one)
    for one in crowd:
        if not one.cancelled:
            assert len(ear(one).ids) == 10
    until(lambda: engine.running() == engine.waiting() == 0)
    assert not any(ear(crowd[i]).ended.is_set() for i in (1, 5, 8))


@pytest.mark.parametrize(
    ("status", "kind"), [(400, InvalidRequest), (404, InferenceFailed), (500, InferenceFailed), (503, NotReady)]
)
def test_a_refusal_is_this_callers_error(start: Start, status: int, kind: type[ModelServeError]) -> None:
    engine, _ = start(refuses={"prompt": [1], "status": status, "message": "no such thing", "param": "seed"})
    refused, other = sequence([1]), sequence()
    engine.start(refused)
    engine.start(other)
    assert ear(refused).ids == []
    error = ear(refused).finish
    assert type(error) is kind
    assert "no such thing" in error.message
    if isinstance(error, InvalidRequest):
        assert error.param == "seed"
    assert len(ear(other).ids) == 20


def test_a_sink_that_fails_ends_its_own_text_only(start: Start, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Ear):
        def put(self, token: Token) -> bool:
            raise ZeroDivisionError

    engine, _ = start()
    broken, other = sequence(sink=Broken()), sequence()
    engine.start(broken)
    engine.start(other)
    assert len(ear(other).ids) == 20
    until(lambda: engine.running() == engine.waiting() == 0)
    assert "a sink failed" in caplog.text


@pytest.mark.parametrize("which", ["server", "core", pytest.param("keeper", marks=pytest.mark.slow)])
def test_its_death_is_known_at_once(start: Start, which: str) -> None:
    engine, server = start(pace_s=0.05, tidy=which == "keeper")
    api, core, _ = processes(server)
    crowd = [sequence(max_tokens=200) for _ in range(5)]
    for one in crowd:
        engine.start(one)
    for one in crowd:
        assert ear(one).first.wait(10)
    assert not engine.lost
    os.kill({"server": api, "core": core, "keeper": server._process.pid}[which], signal.SIGKILL)
    until(lambda: engine.lost, 5)  # it takes a few milliseconds, or the next look at its health
    for one in crowd:
        assert ear(one).ended.wait(60)
        assert isinstance(ear(one).finish, InferenceFailed)
    late = sequence()
    engine.start(late)
    assert ear(late).ended.wait(60)
    assert isinstance(ear(late).finish, InferenceFailed)
    assert (engine.running(), engine.waiting()) == (0, 0)
    assert asyncio.run(engine.metrics("text/plain")) == b""


def test_closed_it_ends_what_runs(start: Start) -> None:
    engine, _ = start(pace_s=0.05)
    one, late = sequence(max_tokens=200), sequence()
    engine.start(one)
    assert ear(one).first.wait(10)
    engine.close()
    engine.start(late)
    for ended in (one, late):
        assert ear(ended).ended.wait(60)
        assert isinstance(ear(ended).finish, NotReady)
    assert engine.join(15)
    assert not engine.lost


@pytest.mark.slow
def test_nothing_outlives_this_process(tmp_path: Path) -> None:
    """Killed with SIGKILL, which it cannot see coming."""
    code = (
        "import sys, time; from pathlib import Path; from tests.backends.test_vllm import started\n"
        "server = started(Path(sys.argv[1])); print(server._process.pid, flush=True); time.sleep(1000)"
    )
    ours = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert ours.stdout is not None
        keeper = int(ours.stdout.readline())
        until(lambda: len(list(_descendants(keeper))) == 3)
        pids = [keeper, *_descendants(keeper)]
    finally:
        ours.kill()
        ours.wait()
        assert ours.stdout is not None
        ours.stdout.close()
    until(lambda: gone(pids), 15)


ROOT_CAUSE = (
    "(EngineCore pid=7) ERROR 11-26 13:30:01 [core.py:800] Traceback (most recent call last):",
    "(EngineCore pid=7) ERROR 11-26 13:30:01 [core.py:800] ValueError: the KV cache has no room for 4096 tokens",
    "(APIServer pid=6) RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {}",
)


@pytest.mark.parametrize(
    ("lines", "status", "sentence"),
    [
        (ROOT_CAUSE, 1, "vLLM ended with exit status 1 before it was ready: the KV cache has no room for 4096 tokens"),
        (
            ("api_server.py: error: argument --x: no",),
            2,
            "vLLM ended with exit status 2 before it was ready: argument --x: no",
        ),
        (("something", "last words"), 3, "vLLM ended with exit status 3 before it was ready: last words"),
    ],
)
def test_a_start_that_fails_says_why(tmp_path: Path, lines: tuple[str, ...], status: int, sentence: str) -> None:
    server = started(tmp_path, lines=lines, status=status)
    client = Client(server.socket)
    with pytest.raises(LoadError) as caught:
        await_ready(server, client, lambda stage, fraction: None)
    assert caught.value.message == sentence
    server.stop()
    client.close()
    assert client.join(5)
    assert server.join(5)


def test_a_directory_that_no_socket_can_be_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(deep))
    with pytest.raises(LoadError, match="TMPDIR is too long a path for a socket"):
        started(tmp_path)
    assert list(deep.iterdir()) == []


def test_its_log_is_in_ours_and_tells_the_progress(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG", "modelserve.vllm")
    lines = ["(Worker pid=8) WARNING 11-26 13:30:01 [x.py:1] Loading weights took 0.2 s", "bar 1\rbar 2"]
    server = started(tmp_path, start_s=0.3, lines=lines)
    client = Client(server.socket)
    seen: list[float] = []
    await_ready(server, client, lambda stage, fraction: seen.append(fraction))
    assert seen == sorted(seen)
    assert {0.5, 0.55, 0.95} <= set(seen)
    logged = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert ("WARNING", "(Worker pid=8) [x.py:1] Loading weights took 0.2 s") in logged
    assert ("INFO", "bar 2") in logged
    server.stop()
    client.close()
    assert server.join(15)
    assert client.join(5)
