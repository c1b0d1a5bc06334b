"""Asks a real MLServer what it answers, and writes the exchanges to mlserver.json: facts, for test_mlserver.py.

Run by hand when another version is to be compared with, in an environment of MLServer's own:

    python -m venv .venvs/mlserver
    .venvs/mlserver/bin/python -m pip install mlserver==1.7.1 mlserver-sklearn==1.7.1 mlserver-mlflow==1.7.1
    .venvs/mlserver/bin/python -m tests.protocols.record_mlserver
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.estimators import IRIS, MLFLOW, SKLEARN, dump, save

HTTP, GRPC, METRICS = 18080, 18081, 18082
FILE = Path(__file__).with_name("mlserver.json")
FLOWERS = IRIS[::60].tolist()
TWO = [row[:2] for row in FLOWERS]


def tensor(name: str, datatype: str, data: list[Any], shape: list[int] | None = None, **parameters: Any) -> Any:
    shape = shape or [len(data), *([len(data[0])] if isinstance(data[0], list) else [])]
    given = {"name": name, "shape": shape, "datatype": datatype, "data": data}
    return given | ({"parameters": parameters} if parameters else {})


def infer(*inputs: Any, outputs: list[str] | None = None, **parameters: Any) -> dict[str, Any]:
    asked: dict[str, Any] = {"id": "1", "inputs": list(inputs)}
    if outputs:
        asked["outputs"] = [{"name": name} for name in outputs]
    return asked | ({"parameters": parameters} if parameters else {})


ROWS = tensor("x", "FP64", FLOWERS)
BODIES = tensor("x", "FP64", [[0.05] * 10, [-0.02] * 10])
AGE = tensor("age", "INT64", [30, 70], [2, 1])
INCOME = tensor("income", "FP64", [30000.0, 52000.5], [2, 1])
CITY = tensor("city", "BYTES", ["Trento", "Bolzano"], [2, 1], content_type="str")
X, N = tensor("x", "FP64", [1.5, 2.0], [2, 1]), tensor("n", "INT64", [3, 4], [2, 1])
A = tensor("a", "FP32", [[1.0, 2.0], [3.0, 4.0]])
B = tensor("b", "FP32", [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])

REQUESTS: list[tuple[str, dict[str, Any]]] = [
    ("classifier", infer(ROWS)),
    ("classifier", infer(ROWS, outputs=["predict"])),
    ("classifier", infer(ROWS, outputs=["predict_proba"])),
    ("classifier", infer(ROWS, outputs=["predict", "predict_proba"])),
    ("classifier", infer(ROWS, outputs=["transform"])),
    ("classifier", infer(ROWS, outputs=["other"])),
    ("classifier", infer(tensor("x", "FP32", FLOWERS, content_type="np"))),
    ("classifier", infer(ROWS, content_type="np")),
    ("classifier", infer(tensor("x", "FP64", [value for row in FLOWERS for value in row], [len(FLOWERS), 4]))),
    ("classifier", infer(tensor("x", "INT64", [[5, 3, 1, 0]]))),
    ("classifier", infer(tensor("x", "FP64", [[1.0, 2.0]]))),
    ("classifier", infer(tensor("x", "FP64", FLOWERS[0]))),
    ("classifier", infer(ROWS, ROWS)),
    ("classifier", infer(tensor("x", "FP64", [[None, 1.0, 2.0, 3.0]]))),
    ("named_classifier", infer(ROWS, outputs=["predict", "predict_proba"])),
    ("regressor", infer(BODIES)),
    ("regressor", infer(BODIES, outputs=["predict_proba"])),
    ("two_regressors", infer(BODIES)),
    ("two_classifiers", infer(ROWS)),
    ("two_classifiers", infer(ROWS, outputs=["predict_proba"])),
    ("scaler", infer(ROWS)),
    ("scaler", infer(ROWS, outputs=["transform"])),
    ("frame_scaler", infer(AGE, INCOME, outputs=["transform"], content_type="pd")),
    ("table_pipeline", infer(AGE, INCOME, CITY, content_type="pd")),
    ("table_pipeline", infer(AGE, INCOME, CITY, content_type="pd", outputs=["predict_proba"])),
    ("table_pipeline", infer(AGE, INCOME, CITY)),
    ("table_pipeline", infer(AGE, INCOME, content_type="pd")),
    ("text_classifier", infer(tensor("x", "BYTES", ["great film", "long"], [2]), content_type="str")),
    ("text_classifier", infer(tensor("x", "BYTES", ["great film", "long"], [2, 1], content_type="str"))),
    ("text_classifier", infer(tensor("x", "BYTES", ["great film", "long"], [2]))),
    ("mlflow_table", infer(AGE, INCOME, CITY)),
    ("mlflow_table", infer(AGE, INCOME, CITY, outputs=["output-1"])),
    ("mlflow_table", infer(AGE, INCOME)),
    ("mlflow_array", infer(ROWS)),
    ("mlflow_array", infer(ROWS, outputs=["predict"])),
    ("mlflow_array", infer(tensor("x", "FP32", FLOWERS))),
    ("mlflow_unsigned", infer(ROWS)),
    ("mlflow_unsigned", infer(ROWS, content_type="np")),
    ("mlflow_own", infer(X, N)),
    ("mlflow_own", infer(X, N, factor=10.0)),
    ("mlflow_own", infer(X, tensor("n", "INT64", [3, -1], [2, 1]))),
    ("mlflow_own_frame", infer(X, tensor("word", "BYTES", ["a", "b"], [2, 1]))),
    ("mlflow_tensors", infer(A, B)),
]


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        for name in (*SKLEARN, *MLFLOW):
            folder = root / name
            folder.mkdir()
            uri = save(name, folder) if name in MLFLOW else dump(name, folder)
            runtime = "mlserver_mlflow.MLflowRuntime" if name in MLFLOW else "mlserver_sklearn.SKLearnModel"
            settings = {"name": name, "implementation": runtime, "parameters": {"uri": str(uri)}}
            (folder / "model-settings.json").write_text(json.dumps(settings))
        settings = {"http_port": HTTP, "grpc_port": GRPC, "metrics_port": METRICS, "parallel_workers": 0}
        (root / "settings.json").write_text(json.dumps(settings))
        with subprocess.Popen([Path(sys.executable).with_name("mlserver"), "start", root]) as server:
            try:
                _await_ready(server)
                exchanges = [
                    {"model": name, "request": asked, **_ask(f"/v2/models/{name}/infer", asked)}
                    for name, asked in REQUESTS
                ]
                metadata = {name: _ask(f"/v2/models/{name}")["answer"] for name in (*SKLEARN, *MLFLOW)}
            finally:
                server.terminate()
    recorded = {
        "recorded": datetime.now(UTC).date().isoformat(),
        "versions": {name: version(name) for name in ("mlserver", "mlflow", "scikit-learn", "pandas", "numpy")},
        "metadata": metadata,
        "exchanges": exchanges,
    }
    FILE.write_text(json.dumps(recorded, indent=1) + "\n")


def _await_ready(server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and server.poll() is None:
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{HTTP}/v2/health/ready", timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError("MLServer did not get ready")


def _ask(path: str, body: Any = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    asked = urllib.request.Request(f"http://127.0.0.1:{HTTP}{path}", data, {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(asked, timeout=60) as answer:
            return {"status": answer.status, "answer": json.load(answer)}
    except urllib.error.HTTPError as error:
        # What a fault of MLServer's is answered with is a traceback of this machine.
        return {"status": error.code, "answer": json.load(error) if error.code < 500 else None}


if __name__ == "__main__":
    main()
