"""A server process from its first moment to its last, and what happens to it on the way."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.models import minilm, tiny
from tests.process import Server, serve


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"


def until(condition: object, what: str, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s} s"
        time.sleep(0.05)


SLOW_PASS = """
import time
from modelserve.backends import huggingface
forward = huggingface.HuggingFaceBackend.forward
def slow(self, encodings, reduce, *, alone=True):
    print(f"a pass of {{len(encodings)}} texts\\n", end="", flush=True)
    time.sleep({seconds})
    return forward(self, encodings, reduce, alone=alone)
huggingface.HuggingFaceBackend.forward = slow
"""


def accepted(server: Server) -> int:
    """Texts that have come in at a server with a SLOW_PASS, the warm-up's included; never more than it has."""
    passes = sum(int(count) for count in re.findall(r"a pass of (\d+) texts", server.log))
    waiting = re.search(r"^modelserve_queue_size (\S+)", server.get("/metrics").text, re.M)
    assert waiting
    return passes + int(float(waiting[1]))


class Test_start:
    @pytest.mark.slow
    def test_the_port_is_open_within_a_second_and_tells_the_progress(self) -> None:
        started = time.monotonic()
        with serve("--model_dir", minilm(), "--task=text_embedding", ready=False) as server:
            opened_s = time.monotonic() - started
            seen = []
            while (answer := server.get("/v2/health/ready")).status_code == 503:
                seen.append(answer.json())
                assert server.get("/v2/health/live").json() == {"live": True}
                time.sleep(0.02)
            assert answer.json() == {"ready": True}
        assert all(body["ready"] is False and 0 <= body["progress"] <= 1 for body in seen)
        assert {body["stage"] for body in seen} & {"load", "warm-up"}
        assert opened_s < 5, "far beyond the second that it takes on an idle machine"

    def test_requests_before_ready_are_told_to_come_back(self) -> None:
        with serve("--model_dir", tiny("bert"), ready=False) as server:
            answer = server.post("/v1/models/model:predict", {"instances": ["x"]})
            if answer.status_code != 200:  # a fast machine may have loaded it already
                assert answer.status_code == 503
                assert int(answer.headers["retry-after"]) >= 1

    @pytest.mark.parametrize(
        ("args", "sentence"),
        [
            (["--model_dir", "/nonexistent"], "/nonexistent"),
            (["--task", "sequence_classification"], "head"),
            (["--max_length", "100000"], "100000"),
        ],
    )
    def test_what_cannot_be_served_ends_with_one_line(self, args: list[str], sentence: str) -> None:
        command = [sys.executable, "-m", "modelserve", "serve", "--http_port=0", "--grpc_port=0"]
        if "--model_dir" not in args:
            args = ["--model_dir", str(tiny("bert")), *args]
        ended = subprocess.run([*command, *args], capture_output=True, text=True, timeout=60)
        assert ended.returncode == 1, ended.stderr
        last = ended.stderr.strip().splitlines()[-1]
        assert last.startswith("modelserve: error:")
        assert sentence in last
        assert "Traceback" not in ended.stderr

    def test_a_format_of_the_request_line_that_cannot_be_used(self) -> None:
        command = [sys.executable, "-m", "modelserve", "serve", "--model_dir", str(tiny("bert")), "--http_port=0"]
        ended = subprocess.run(
            [*command, "--access_log_format={client_addr}"], capture_output=True, text=True, timeout=60
        )
        assert ended.returncode == 2
        assert "{client_addr}" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_a_port_that_is_taken(self) -> None:
        with socket.create_server(("0.0.0.0", 0)) as other:
            port = str(other.getsockname()[1])
            ended = subprocess.run(
                [sys.executable, "-m", "modelserve", "serve", "--model_dir", str(tiny("bert")), "--http_port", port],
                capture_output=True,
                text=True,
                timeout=60,
            )
        assert ended.returncode == 2
        assert port in ended.stderr
        assert "Traceback" not in ended.stderr


@pytest.mark.slow
class Test_end:
    def test_sigterm_loses_nothing_that_was_accepted(self) -> None:
        with (
            serve("--model_dir", tiny("bert"), "--max_batch_tokens=16", code=SLOW_PASS.format(seconds=0.2)) as server,
            ThreadPoolExecutor(20) as pool,
        ):
            before = accepted(server)
            asked = [
                pool.submit(server.post, "/v1/models/model:predict", {"instances": [f"text {i}", "another"]})
                for i in range(20)
            ]
            until(lambda: accepted(server) == before + 40, "all are accepted")
            server.process.send_signal(signal.SIGTERM)
            answers = [future.result() for future in asked]
            assert [answer.status_code for answer in answers] == [200] * 20
            assert server.process.wait(30) == 0

    def test_ready_turns_false_first(self) -> None:
        with serve("--model_dir", tiny("bert"), code=SLOW_PASS.format(seconds=1)) as server, httpx.Client() as client:
            assert client.get(server.url + "/v2/health/ready").status_code == 200
            with ThreadPoolExecutor(1) as pool:
                asked = pool.submit(server.post, "/v1/models/model:predict", {"instances": ["x"]})
                until(lambda: "modelserve_queue_size" in client.get(server.url + "/metrics").text, "metrics")
                time.sleep(0.2)  # the request is in its pass of one second
                server.process.send_signal(signal.SIGTERM)
                until(lambda: "draining" in server.log, "the signal is taken")
                answer = client.get(server.url + "/v2/health/ready")  # on the connection that is open already
                assert answer.status_code == 503
                assert answer.json()["stage"] == "draining"
                assert asked.result().status_code == 200
            assert server.process.wait(30) == 0

    def test_sigint_of_an_idle_server_is_quick(self) -> None:
        with serve("--model_dir", tiny("bert")) as server:
            started = time.monotonic()
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - started < 5

    def test_the_drain_is_bounded(self) -> None:
        with serve("--model_dir", tiny("bert"), "--shutdown_timeout=1", code=SLOW_PASS.format(seconds=60)) as server:
            caller = threading.Thread(target=lambda: _ignore(server), daemon=True)
            caller.start()
            time.sleep(0.5)
            assert server.stop(timeout_s=20) == 0


def _ignore(server: Server) -> None:
    try:
        server.post("/v1/models/model:predict", {"instances": ["x"]})
    except httpx.TransportError:
        return


@pytest.mark.slow
class Test_faults:
    def test_a_forward_pass_that_raises_answers_its_callers_only(self) -> None:
        code = """
from modelserve.backends import huggingface
forward = huggingface.HuggingFaceBackend.forward
def failing(self, encodings, reduce, *, alone=True):
    if any(len(encoding) == 12 for encoding in encodings):
        raise RuntimeError("secret detail")
    return forward(self, encodings, reduce, alone=alone)
huggingface.HuggingFaceBackend.forward = failing
"""
        with serve("--model_dir", tiny("bert"), code=code) as server, ThreadPoolExecutor(8) as pool:
            ids = [[1] * n for n in (5, 12, 7, 12, 9, 3)]
            asked = [
                pool.submit(server.post, "/v1/embeddings", {"model": "model", "input": one})
                for one in ids
                for _ in "ab"
            ]
            for one, future in zip([one for one in ids for _ in "ab"], asked, strict=True):
                answer = future.result()
                assert answer.status_code == (500 if len(one) == 12 else 200), answer.text
                assert "secret" not in answer.text
            assert server.get("/v2/health/ready").status_code == 200

    def test_a_full_queue_answers_429(self) -> None:
        args = ("--model_dir", tiny("bert"), "--max_queue_size=4", "--max_batch_tokens=1")
        with serve(*args, code=SLOW_PASS.format(seconds=0.3)) as server, ThreadPoolExecutor(20) as pool:
            asked = [pool.submit(server.post, "/v1/models/model:predict", {"instances": ["a b"]}) for _ in range(20)]
            answers = [future.result() for future in asked]
            codes = {answer.status_code for answer in answers}
            assert codes == {200, 429}
            refused = next(answer for answer in answers if answer.status_code == 429)
            assert 1 <= int(refused.headers["retry-after"]) <= 60
            assert "--max_queue_size" in refused.json()["error"]
            until(lambda: "modelserve_queue_size 0.0" in server.get("/metrics").text, "the queue is empty again")
            assert server.post("/v1/models/model:predict", {"instances": ["a b"]}).status_code == 200

    def test_a_client_that_leaves_frees_its_texts(self) -> None:
        args = ("--model_dir", tiny("bert"), "--max_batch_tokens=1")
        with serve(*args, code=SLOW_PASS.format(seconds=0.3)) as server:
            with pytest.raises(httpx.ReadTimeout):
                httpx.post(server.url + "/v1/models/model:predict", json={"instances": ["a"] * 200}, timeout=1)
            until(lambda: "modelserve_queue_size 0.0" in server.get("/metrics").text, "its texts are gone", 10)
            assert server.post("/v1/models/model:predict", {"instances": ["b"]}).status_code == 200

    def test_a_request_that_takes_too_long_is_504(self) -> None:
        args = ("--model_dir", tiny("bert"), "--request_timeout=0.2")
        with serve(*args, code=SLOW_PASS.format(seconds=1)) as server:
            answer = server.post("/v1/models/model:predict", {"instances": ["x"]})
            assert answer.status_code == 504
            assert "--request_timeout" in answer.json()["error"]

    def test_a_pass_that_never_returns_turns_liveness_false(self) -> None:
        args = ("--model_dir", tiny("bert"), "--liveness_timeout=0.5", "--request_timeout=0.2", "--shutdown_timeout=1")
        with serve(*args, code=SLOW_PASS.format(seconds=600)) as server:
            assert server.get("/v2/health/live").status_code == 200
            assert server.post("/v1/models/model:predict", {"instances": ["x"]}).status_code == 504
            until(lambda: server.get("/v2/health/live").status_code == 503, "liveness", 5)
            assert server.get("/v2/health/ready").status_code == 503
            assert server.stop(timeout_s=20) == 0, "a hanging pass does not keep the process"

    def test_texts_stay_out_of_the_log_unless_asked_for(self) -> None:
        with serve("--model_dir", tiny("bert"), "--log_format=json") as server:
            server.post("/v1/models/model:predict", {"instances": ["private words"]}, headers={"x-request-id": "abc"})
            until(lambda: "abc" in server.log, "the request's line")
            assert "private" not in server.log
            line = next(json.loads(line) for line in server.log.splitlines() if '"abc"' in line)
            assert line["code"] == "200"
            assert {"api", "texts", "tokens", "queue_ms", "inference_ms"} <= line.keys()
        with serve("--model_dir", tiny("bert"), "--disable_log_requests=false", "--max_log_len=7") as server:
            server.post("/v1/models/model:predict", {"instances": ["private words"]})
            until(lambda: "private" in server.log, "the text")
            assert "private words" not in server.log


@pytest.mark.slow
class Test_workers:
    def test_one_port_one_set_of_metrics_and_a_killed_worker_is_replaced(self) -> None:
        with serve("--model_dir", tiny("bert"), "--workers=2") as server:
            ask = lambda: server.post("/v1/models/model:predict", {"instances": ["hello"]})  # noqa: E731
            assert all(ask().status_code == 200 for _ in range(20))
            count = 'modelserve_requests_total{api="v1",code="200",task="text_embedding"} 20.0'
            assert all(count in server.get("/metrics").text for _ in range(6)), "every worker answers for all"
            children = _children(server.process.pid)
            assert len(children) == 2
            os.kill(children[0], signal.SIGKILL)
            until(lambda: not alive(children[0]), "the worker is dead")
            for _ in range(10):
                assert ask().status_code == 200, "the other one goes on"
            until(lambda: len(_children(server.process.pid)) == 2, "a new worker")
            until(lambda: server.log.count(": ready 100 %") >= 3, "and it is ready")
            assert server.get("/v2/health/ready").status_code == 200
            pids = [server.process.pid, *_children(server.process.pid)]
            assert server.stop() == 0
            assert not any(alive(pid) for pid in pids)

    def test_workers_end_when_their_supervisor_is_killed(self) -> None:
        with serve("--model_dir", tiny("bert"), "--workers=2") as server:
            children = _children(server.process.pid)
            server.process.kill()
            server.process.wait()
            until(lambda: not any(alive(pid) for pid in children), "orphans end by themselves", 30)

    def test_a_worker_that_is_just_being_started_ends_too(self) -> None:
        code = """
import asyncio, os, signal
from modelserve.supervisor import _Supervisor
start = _Supervisor._start
async def interrupted(self, index):
    process = await start(self, index)
    if index == 1:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(0.2)
    return process
_Supervisor._start = interrupted
"""
        args = ("--model_dir", tiny("bert"), "--workers=2", "--shutdown_timeout=1")
        with serve(*args, code=code, ready=False) as server:
            assert server.process.wait(30) == 0

    def test_a_worker_that_hangs_is_replaced(self) -> None:
        args = ("--model_dir", tiny("bert"), "--workers=2", "--liveness_timeout=1", "--request_timeout=1")
        code = SLOW_PASS.format(seconds="600 if any(len(e) == 12 for e in encodings) else 0")
        hook = {"PYTHONPATH": _sitecustomize(code)}
        with serve(*args, env=hook) as server:
            before = set(_children(server.process.pid))
            assert server.post("/v1/embeddings", {"model": "model", "input": [1] * 12}).status_code == 504
            until(lambda: not before <= set(_children(server.process.pid)), "the hanging worker ends")
            until(lambda: len(_children(server.process.pid)) == 2, "another is started")
            assert server.post("/v1/embeddings", {"model": "model", "input": [1] * 11}).status_code == 200

    def test_a_model_that_cannot_load_ends_all(self) -> None:
        ended = subprocess.run(
            [sys.executable, "-m", "modelserve", "serve", "--model_dir=/nonexistent", "--workers=2", "--http_port=0",
             "--grpc_port=0"],
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert ended.returncode == 1
        assert "/nonexistent" in ended.stderr
        assert "Traceback" not in ended.stderr

    def test_grpc_reaches_the_workers_too(self) -> None:
        import grpc
        from grpc_health.v1 import health_pb2, health_pb2_grpc

        with serve("--model_dir", tiny("bert"), "--workers=2") as server:
            for _ in range(6):
                with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
                    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
                assert answer.status == health_pb2.HealthCheckResponse.SERVING


def _children(pid: int) -> list[int]:
    return sorted(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))


def _sitecustomize(code: str) -> str:
    """A directory whose sitecustomize.py injects `code` into workers once the backend is imported."""
    import tempfile

    directory = Path(tempfile.mkdtemp(prefix="modelserve-test-"))
    (directory / "sitecustomize.py").write_text(
        "import os\nif 'MODELSERVE_WORKER_INDEX' in os.environ:\n"
        + "".join(f"    {line}\n" for line in code.strip().splitlines())
    )
    return str(directory)
