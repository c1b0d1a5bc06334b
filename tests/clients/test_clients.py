"""The real clients of three projects against a real server process, each in an environment of its own.

What they are answered is compared with what the same server answers to plain V1, and with KServe's recorded values.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.environments import environment
from tests.estimators import IRIS, SKLEARN, estimator
from tests.models import minilm, tiny
from tests.process import Server, serve

HERE = Path(__file__).parent
TEXTS = ["Hello world", "naïve café, 語", "", "The capital of France is Paris."]
JSON_TEXTS = json.dumps(TEXTS)
# What KServe's runtime answered to "Hello world" with these weights.
HELLO = [-0.03447720780968666, 0.031023211777210236, 0.006734978407621384]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def ask(client: str, script: str, *arguments: object) -> Any:
    """What the script prints, run in the client's environment."""
    python = environment(HERE / f"requirements-{client}.txt")
    done = subprocess.run(
        [str(python), str(HERE / script), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env=os.environ | {"PYTHONPATH": str(HERE.parent.parent / "src")},
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def embedder() -> Iterator[Server]:
    with serve("--model_dir", minilm(), "--model_name=m", "--threads=1") as server:
        yield server


@pytest.fixture(scope="module")
def classifier() -> Iterator[Server]:
    with serve(
        "--model_dir", tiny("bert", "sequence_classification"), "--model_name=m", "--enable_model_control"
    ) as server:
        yield server


def predictions(server: Server, **body: Any) -> Any:
    answer = server.post("/v1/models/m:predict", {"instances": TEXTS, **body})
    assert answer.status_code == 200, answer.text
    return answer.json()["predictions"]


def close(answer: Any, expected: Any) -> None:
    np.testing.assert_allclose(answer, expected, atol=1e-5)


def test_tritonclient_reads_embeddings(embedder: Server) -> None:
    answers = ask("tritonclient", "ask_tritonclient.py", embedder.http_port, embedder.grpc_port, "m", JSON_TEXTS)
    vectors = predictions(embedder)
    close(vectors[0][:3], HELLO)
    for api in ("http", "grpc"):
        told = answers[api]
        assert told["live"] is told["ready"] is told["model_ready"] is told["model_ready_version"] is True
        assert told["id"] == "t1"
        close(told["texts"], vectors)
        close(told["column"], vectors)
        assert told["server"]["name"] == "modelserve"
        assert told["metadata"]["name"] == "m"
        assert told["metadata"]["inputs"][0]["name"] == "input-0"
        (output,) = [tensor for tensor in told["metadata"]["outputs"] if tensor["name"] == "output-0"]
        assert output["datatype"] == "FP32"
        assert [int(size) for size in output["shape"]] == [-1, 384]
        name, states = told["raw"]
        assert name == "last_hidden_state"
        assert np.shape(states) == (2, 4, 384)
        assert not np.any(np.array(states)[1, 2:])
        assert "Unexpected inference output 'embeddings' for model 'm'" in told["wrong_output"][1]
        for wrong in ("unknown_model", "wrong_version"):
            assert told[wrong][0] in ("404", "StatusCode.NOT_FOUND")
        assert told["unload_refused"][0] in ("501", "StatusCode.UNIMPLEMENTED")
    close(answers["grpc"]["raw"][1], answers["http"]["raw"][1])
    close(answers["http"]["raw_json"][1], answers["http"]["raw"][1])
    assert answers["http"]["model_unknown"] is False
    assert answers["grpc"]["model_unknown"][0] == "StatusCode.NOT_FOUND"
    assert answers["http"]["index"] == [{"name": "m", "version": "1", "state": "READY", "reason": ""}]
    assert answers["grpc"]["index"] == {"models": [{"name": "m", "version": "1", "state": "READY"}]}
    close(answers["grpc"]["gzip"], vectors)
    codings = [key for key in answers["http"] if "in=" in key or "->" in key]
    assert len(codings) == 8
    for coding in codings:
        close(answers["http"][coding], vectors)


def test_tritonclient_reads_classes_and_controls_the_model(classifier: Server) -> None:
    answers = ask("tritonclient", "ask_tritonclient.py", classifier.http_port, classifier.grpc_port, "m", JSON_TEXTS)
    classes = predictions(classifier)
    for api in ("http", "grpc"):
        assert answers[api]["texts"] == answers[api]["column"] == classes
        name, logits = answers[api]["raw"]
        assert name == "logits"
        assert np.shape(logits) == (2, 3)
        assert answers[api]["unload_refused"][0] in ("404", "StatusCode.NOT_FOUND")
    seen = ask("tritonclient", "control_tritonclient.py", classifier.http_port, classifier.grpc_port, "m")
    gone_and_back = [[False, "UNAVAILABLE"], [True, "READY"]]
    assert seen == {"http": gone_and_back, "grpc": gone_and_back}
    assert predictions(classifier) == classes


def test_kserves_clients_read_embeddings(embedder: Server) -> None:
    answers = ask("kserve", "ask_kserve.py", embedder.http_port, embedder.grpc_port, "m", JSON_TEXTS)
    vectors = predictions(embedder)
    v1, v2, grpc = answers["v1"], answers["v2"], answers["grpc"]
    assert v1["live"] is v1["model_ready"] is True
    close(v1["texts"], vectors)
    assert "Model with name nope does not exist." in v1["model_unknown"]
    assert "404 Not Found" in v1["infer_unknown"]
    for told in (v2, grpc):
        assert told["live"] is told["ready"] is told["model_ready"] is True
    assert v2["model_unknown"] is False
    assert "Model with name nope does not exist." in v2["infer_unknown"]
    assert grpc["model_unknown"] == grpc["infer_unknown"] == "NOT_FOUND: Model with name nope does not exist."
    for answer in (v2["binary"], v2["json"], v2["binary_both_ways"], grpc["binary"], grpc["typed"]):
        assert (answer["id"], answer["name"], answer["datatype"]) == ("k1", "output-0", "FP32")
        assert answer["shape"] == [len(TEXTS), 384]
        close(np.reshape(answer["data"], answer["shape"]), vectors)


def test_kserves_clients_read_classes(classifier: Server) -> None:
    answers = ask("kserve", "ask_kserve.py", classifier.http_port, classifier.grpc_port, "m", JSON_TEXTS)
    classes = predictions(classifier)
    assert answers["v1"]["texts"] == classes
    for api, way in (
        ("v2", "binary"),
        ("v2", "json"),
        ("v2", "binary_both_ways"),
        ("grpc", "binary"),
        ("grpc", "typed"),
    ):
        answer = answers[api][way]
        assert (answer["datatype"], answer["shape"], answer["data"]) == ("INT64", [len(TEXTS)], classes)


@pytest.fixture(scope="module")
def flowers() -> Iterator[Server]:
    with serve("--model_dir", estimator("classifier"), "--model_name=m", "--allow_pickle") as server:
        yield server


def test_tritonclient_reads_predictions_of_rows(flowers: Server) -> None:
    rows = IRIS[::40]
    fitted = SKLEARN["classifier"]()
    answers = ask(
        "tritonclient", "ask_rows_tritonclient.py", flowers.http_port, flowers.grpc_port, "m", json.dumps(rows.tolist())
    )
    for told in answers.values():
        assert told["default"] == told["predict"] == fitted.predict(rows)[:, None].tolist()
        close(told["predict_proba"], fitted.predict_proba(rows))
        assert "the model knows no column names" in told["columns"]


def test_kserves_clients_read_predictions_of_rows(flowers: Server) -> None:
    rows = IRIS[::40]
    answers = ask("kserve", "ask_rows_kserve.py", flowers.http_port, flowers.grpc_port, "m", json.dumps(rows.tolist()))
    classes = SKLEARN["classifier"]().predict(rows).tolist()
    assert answers["v1"] == classes
    assert answers["v2"] == answers["grpc"] == ["predict", "INT64", [len(rows), 1], classes]


@pytest.mark.parametrize("prefix", ["/openai/v1", "/v1"])
def test_openais_client_reads_embeddings(embedder: Server, prefix: str) -> None:
    answers = ask("openai", "ask_openai.py", embedder.url + prefix, "m", JSON_TEXTS)
    vectors = predictions(embedder)
    assert answers["models"] == ["m"]
    assert answers["model"] == "m"
    assert answers["model_unknown"]["class"] == "NotFoundError"
    for way in ("default", "float"):
        answer = answers[way]
        assert (answer["object"], answer["model"], answer["indices"]) == ("list", "m", [0, 1, 2, 3])
        close(answer["vectors"], vectors)
    close(answers["async"]["vectors"], vectors)
    close(answers["ids"]["vectors"][0], vectors[0])
    assert answers["ids"]["tokens"] == 4
    unknown = answers["unknown"]
    assert (unknown["class"], unknown["code"], unknown["type"]) == (
        "NotFoundError",
        "model_not_found",
        "invalid_request_error",
    )
    for wrong, field in (("dimensions", "dimensions"), ("empty", "input"), ("chat", "model")):
        assert (answers[wrong]["class"], answers[wrong]["param"]) == ("BadRequestError", field)
    assert answers["chat"]["message"] == "Model m does not support Chat Completion API"


@pytest.mark.parametrize("order", ["first", "last"])
@pytest.mark.parametrize(
    ("client", "module"),
    [("tritonclient", "tritonclient.grpc.service_pb2"), ("kserve", "kserve.protocol.grpc.grpc_predict_v2_pb2")],
)
def test_our_messages_live_beside_the_clients(client: str, module: str, order: str) -> None:
    assert ask(client, "together.py", order, module) == {"ok": True}
