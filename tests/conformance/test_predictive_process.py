"""Estimators behind a real `modelserve serve` process: health, metrics, logs, limits, drain and workers."""

from __future__ import annotations

import json
import re
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.estimators import IRIS, estimator, mlflow_model, people
from tests.process import Server, serve

FLOWER = IRIS[:1].tolist()
PREDICT, INFER = "/v1/models/m:predict", "/v2/models/m/infer"
TENSOR = {"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP64", "data": FLOWER}]}

FAULTS = """
import os, time
from pathlib import Path
import numpy as np
from sklearn.linear_model import LogisticRegression

predict = LogisticRegression.predict
def faulty(self, rows):
    firsts = np.asarray(rows)[:, 0].tolist()
    if -1 in firsts:
        raise RuntimeError("secret detail")
    if -2 in firsts:
        raise SystemExit("secret detail")
    if -3 in firsts:
        held = Path(os.environ["MODELSERVE_TEST_HELD"])
        held.touch()
        while held.exists():
            time.sleep(0.01)
    return predict(self, rows)
LogisticRegression.predict = faulty
"""


HELD = [[-3.0, 1.0, 1.0, 1.0]]
"""A row whose prediction begins with a file that MODELSERVE_TEST_HELD names, and ends once somebody removed it."""


@pytest.fixture(scope="module")
def held(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("held") / "held"


@pytest.fixture(scope="module")
def server(held: Path) -> Iterator[Server]:
    with serve(
        "--model_dir",
        estimator("classifier"),
        "--model_name=m",
        "--allow_pickle",
        "--log_format=json",
        "--disable_log_requests=false",
        "--max_client_batch_size=100",
        "--max_queue_size=150",
        code=FAULTS,
        env={"MODELSERVE_TEST_HELD": str(held)},
    ) as server:
        yield server


def lines(server: Server) -> list[dict[str, Any]]:
    return [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]


def libraries(server: Server) -> str:
    return Path(f"/proc/{server.process.pid}/maps").read_text()


def test_what_it_says_of_itself(server: Server) -> None:
    assert server.post(PREDICT, {"instances": FLOWER}).json() == {"predictions": [0]}
    info = server.get("/info").json()
    (model,) = info.get("models", [info])
    assert model["task"] == "prediction"
    assert model["backend"] == "sklearn"
    assert model["layout"] == "packed"
    assert model["estimator"] == "LogisticRegression"
    assert set(model["versions"]) == {"scikit-learn"}
    metadata = server.get("/v2/models/m").json()
    assert metadata["platform"] == "sklearn"
    assert metadata["inputs"] == [{"name": "input-0", "datatype": "FP64", "shape": [-1, 4]}]
    assert server.get("/v1/models").json()["data"][0]["max_model_len"] is None
    assert "libtorch" not in libraries(server)
    assert all(line["level"] != "error" for line in lines(server))


def test_it_is_counted_and_logged(server: Server) -> None:
    answer = server.post(PREDICT, {"instances": IRIS[:3].tolist()}, headers={"x-request-id": "order-7"})
    assert answer.headers["x-request-id"] == "order-7"
    (line,) = [line for line in lines(server) if line.get("id") == "order-7"]
    assert (line["texts"], line["tokens"], line["code"]) == (3, 0, "200")
    assert line["request_texts"][0] == str(IRIS[0].tolist())
    metrics = server.get("/metrics").text
    assert re.search(r'modelserve_requests_total\{api="v1",code="200",task="prediction"\} \d', metrics)
    assert re.search(r"modelserve_batch_size_sum [1-9]", metrics)
    assert re.search(r"^modelserve_queue_size 0", metrics, re.M)


def test_limits(server: Server, held: Path) -> None:
    answer = server.post(PREDICT, {"instances": FLOWER * 101})
    assert (answer.status_code, answer.json()["error"]) == (
        413,
        "The request has 101 inputs, at most 100 are allowed (--max_client_batch_size).",
    )
    codes: list[int] = []

    def ask(rows: list[list[float]]) -> threading.Thread:
        thread = threading.Thread(target=lambda: codes.append(server.post(PREDICT, {"instances": rows}).status_code))
        thread.start()
        return thread

    first = ask(HELD)
    wait_for(held.exists)
    waiting = [ask(FLOWER * 80) for _ in range(4)]
    wait_for(lambda: codes == [429] * 3)  # 80 rows wait, and 80 more are more than 150
    assert re.search(r"^modelserve_queue_size 80", server.get("/metrics").text, re.M)
    assert server.get("/v2/health/live").status_code == 200, "nothing computes on the event loop"
    held.unlink()
    for thread in [first, *waiting]:
        thread.join()
    assert sorted(codes) == [200, 200, 429, 429, 429]


def wait_for(condition: Any, timeout_s: float = 10) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("kind", [-1.0, -2.0], ids=["an exception", "even SystemExit"])
def test_a_crash_in_predict_answers_those_it_touched(server: Server, kind: float) -> None:
    answers: dict[int, httpx.Response] = {}

    def ask(index: int) -> None:
        rows = [[kind, 1, 1, 1]] if index % 4 == 0 else FLOWER
        answers[index] = server.post(PREDICT, {"instances": rows})

    threads = [threading.Thread(target=ask, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, answer in answers.items():
        if index % 4 == 0:
            assert (answer.status_code, answer.json()) == (500, {"error": "the model failed on this input"})
        else:
            assert answer.json() == {"predictions": [0]}
    assert server.post(INFER, TENSOR).json()["outputs"][0]["data"] == [0]
    assert server.get("/v2/health/live").status_code == 200


@pytest.mark.slow
def test_a_drain_answers_what_was_accepted(tmp_path: Path) -> None:
    held = tmp_path / "held"
    with serve(
        "--model_dir",
        estimator("classifier"),
        "--model_name=m",
        "--allow_pickle",
        code=FAULTS,
        env={"MODELSERVE_TEST_HELD": str(held)},
    ) as server:
        answers: list[httpx.Response] = []
        asking = threading.Thread(target=lambda: answers.append(server.post(PREDICT, {"instances": HELD})))
        asking.start()
        wait_for(held.exists)
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: "draining" in server.log)
        held.unlink()
        assert server.process.wait(30) == 0
        asking.join()
        assert [answer.status_code for answer in answers] == [200]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["table_pipeline", "mlflow_table"])
def test_workers(name: str) -> None:
    path = mlflow_model(name) if name.startswith("mlflow") else estimator(name)
    with serve("--model_dir", path, "--model_name=m", "--allow_pickle", "--workers=2") as server:
        rows = people().dropna().head(20).to_dict("records")
        answers = [server.post(PREDICT, {"instances": rows}) for _ in range(10)]
        assert {answer.status_code for answer in answers} == {200}
        assert len({answer.text for answer in answers}) == 1
        assert server.stop() == 0


def test_a_refused_file_ends_the_start() -> None:
    with (
        pytest.raises(AssertionError, match="give --allow_pickle if you trust it"),
        serve("--model_dir", estimator("classifier"), "--model_name=m"),
    ):
        pass


@pytest.mark.slow
def test_model_control_loads_it_again() -> None:
    with serve("--model_dir", estimator("classifier", ".skops"), "--model_name=m", "--enable_model_control") as server:
        assert server.post("/v2/repository/models/m/unload").status_code == 200
        assert server.post(PREDICT, {"instances": FLOWER}).status_code == 404
        assert server.post("/v2/repository/models/m/load").status_code == 200
        assert server.post(PREDICT, {"instances": FLOWER}).json() == {"predictions": [0]}
        assert "libtorch" not in libraries(server)


@pytest.mark.slow
def test_mlflows_log_lines_are_ours() -> None:
    with serve(
        "--model_dir", mlflow_model("mlflow_own"), "--model_name=m", "--allow_pickle", "--log_format=json"
    ) as server:
        assert server.post(PREDICT, {"instances": [{"x": 1.0, "n": 2}]}).json() == {"predictions": [4.0]}
        assert all(line.startswith("{") for line in server.log.splitlines()), server.log
        assert "libtorch" not in libraries(server)
