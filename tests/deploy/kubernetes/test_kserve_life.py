"""The life of a run as KServe has it: an InferenceService with its own ServingRuntime."""

from __future__ import annotations

import pytest

import modelserve as ms
from modelserve.errors import ConfigError
from tests.deploy.kubernetes.fake import Fake, fates

WAIT_S = 30


def running(function: ms.Function, **given: object) -> ms.Run:
    return function.run(
        "serve", target="kubernetes", flavor="kserve", wait=True, timeout=WAIT_S, log_info=False, **given
    )


def kinds(fake: Fake) -> set[str]:
    return {one["kind"] for one in fake.everything("default")}


@pytest.fixture(autouse=True)
def kserve(fake: Fake) -> None:
    fake.install("serving.kserve.io")


def test_from_nothing_to_nothing(fake: Fake, bert: ms.Function) -> None:
    run = running(bert, model_cache="1Gi")
    (service,) = fake.objects("InferenceService")
    name = service["metadata"]["name"]
    assert run.status.service["name"] == f"{name}-predictor"
    assert run.url.startswith(f"http://{name}")
    assert {"InferenceService", "ServingRuntime", "PersistentVolumeClaim"} <= kinds(fake)
    assert [one["kind"] for one in run.manifest()] == ["PersistentVolumeClaim", "ServingRuntime", "InferenceService"]
    run.scale(2, wait=True, timeout=WAIT_S, log_info=False)
    fake.wait(lambda: len(fake.objects("Pod")) == 2)
    run.update(envs={"A": "2"}, wait=True, timeout=WAIT_S, log_info=False)
    run.stop()
    assert fake.objects("Pod") == []
    assert "PersistentVolumeClaim" in kinds(fake), "disks stay"
    run.resume(wait=True, timeout=WAIT_S, log_info=False)
    assert run.state == "RUNNING"
    with pytest.raises(ConfigError, match="flavor is 'kserve'; it cannot change while the run is there"):
        run.update(flavor="deployment")
    run.delete()
    assert fake.everything("default") == []


def test_a_failure_is_told_as_elsewhere(fake: Fake, bert: ms.Function) -> None:
    fake.fate = fates.crash("boom", code=3)
    with pytest.raises(ms.RunFailed, match=r"ends with exit code 3, .*\nboom"):
        running(bert)


def test_found_again(fake: Fake, bert: ms.Function, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: object) -> None:
    run = running(bert)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path_factory.mktemp("elsewhere")))  # type: ignore[attr-defined]
    (again,) = ms.list_runs(target="kubernetes")
    assert (again.id, again.state, again.url) == (run.id, "RUNNING", run.url)
    again.delete()
    assert fake.everything("default") == []


def test_an_update_leaves_what_kserve_has_made(fake: Fake, bert: ms.Function) -> None:
    run = running(bert)
    before = {one["metadata"]["uid"] for one in fake.objects("Deployment")}
    assert before, "KServe's controller makes one, with the run's labels"
    run.update(labels={"team": "ml"}, wait=True, timeout=WAIT_S, log_info=False)
    assert {one["metadata"]["uid"] for one in fake.objects("Deployment")} == before
