"""Whatever a request to a model of features is, its answer is one that /openapi.json describes, and no 5xx."""

from __future__ import annotations

import pytest

from tests.estimators import model
from tests.fuzz.routes import fuzz
from tests.process import serve

CASES = 500


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["classifier", "table_pipeline", "text_classifier", "mlflow_own"])
def test_routes(name: str) -> None:
    with serve("--model_dir", model(name), "--model_name=m", "--allow_pickle") as server:
        for route in ("POST /v1/models/{model}:predict", "POST /v2/models/{model}/infer"):
            report = fuzz(server.url, route, CASES, ("return_probabilities",))
            assert not report.complaints, "\n".join(report.complaints[:5])
            assert report.cases >= CASES
            assert report.connections == 1
        assert "Traceback" not in server.log
        assert server.get("/v2/health/ready").status_code == 200
