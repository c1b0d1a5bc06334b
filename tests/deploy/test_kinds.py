"""Runs of the kinds that serve rows of numbers, and a profile: what they answer, as the SDK's user sees it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import modelserve as ms
from modelserve.errors import RunFailed
from tests.deploy.runs import orphans
from tests.estimators import IRIS, classifier, estimator, mlflow_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

ROWS = IRIS[::30]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ms.Project]:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET"):
        monkeypatch.delenv(name, raising=False)
    project = ms.get_or_create_project("demo")
    profiles = tmp_path / "home" / "profiles"
    profiles.mkdir()
    (profiles / "certain.yaml").write_text("return_probabilities: true\nallow_pickle: true\n")
    yield project
    project.delete()
    assert orphans(str(tmp_path / "home")) == []


def test_sklearnserve_and_a_profile(project: ms.Project) -> None:
    model = classifier()
    function = project.new_function(name="iris", kind="sklearnserve", path=str(estimator("classifier")))
    with pytest.raises(RunFailed, match="is a pickle, and loading it runs whatever code is in it"):
        function.run("serve", wait=True, log_info=False)
    with function.run("serve", profile="certain") as run:
        np.testing.assert_allclose(run.predict(ROWS), model.predict_proba(ROWS))
        assert run.predict(ROWS, return_probabilities=False) == model.predict(ROWS).tolist()
    with function.run("serve", profile="certain", return_probabilities=False) as run:
        assert run.predict(ROWS) == model.predict(ROWS).tolist(), "a run's value wins over the profile's"


def test_mlflowserve(project: ms.Project) -> None:
    model = classifier()
    function = project.new_function(
        name="saved", kind="mlflowserve", path=str(mlflow_model("mlflow_array")), model_name="m", allow_pickle=True
    )
    with function.run("serve") as run:
        assert run.predict(ROWS) == model.predict(ROWS).tolist()
        body = {"inputs": [{"name": "rows", "datatype": "FP64", "shape": list(ROWS.shape), "data": ROWS.tolist()}]}
        (output,) = run.invoke(json=body).json()["outputs"]
        assert output["data"] == model.predict(ROWS).tolist()
        assert run.predict(ROWS, its_own=1) == model.predict(ROWS).tolist(), "a parameter that its signature may name"
