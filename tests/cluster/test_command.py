"""A run in a cluster by the command line, from `modelserve run --target kubernetes` to `modelserve rm`.

Each command is a process of its own. That the pods answer is said by kubelet.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.cluster import places
from tests.cluster.api import deployments, pods
from tests.cluster.cluster import Cluster
from tests.cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

Said = Callable[..., str]


@pytest.fixture
def modelserve(tmp_path: Path) -> Said:
    """What the command prints; it must exit with `status`."""
    home = {"MODELSERVE_HOME": str(tmp_path / "of-the-command"), "COLUMNS": "300"}

    def run(*words: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "modelserve", *words]
        done = subprocess.run(command, env=os.environ | home, capture_output=True, text=True, timeout=100)
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr

    return run


def test_a_run_by_the_command(cluster: Cluster, namespace: str, kubelet: Kubelet, modelserve: Said) -> None:
    place = [f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    place += [f"--context={cluster.context}"] if cluster.context else []

    def there() -> int:
        return len(cluster.api.get(pods(namespace)).ok()["items"])

    what = [cluster.model, "--name", "tiny", "--image", "registry.invalid/modelserve:none", *place]
    manifests = [one for one in yaml.safe_load_all(modelserve("manifest", *what)) if one]
    assert {one["kind"] for one in manifests} == {"Deployment", "Service"}
    asked = [one for one in yaml.safe_load_all(modelserve("manifest", *what, "--dry-run")) if one]
    assert {one["kind"] for one in asked} == {"Deployment", "Service"}
    assert cluster.api.get(deployments(namespace)).ok()["items"] == []

    made = json.loads(modelserve("run", *what, "--target", "kubernetes", "--detach", "--json"))
    assert (made["state"], made["target"]) == ("RUNNING", "kubernetes")
    (listed,) = json.loads(modelserve("runs", "--json"))
    assert (listed["id"], listed["state"]) == (made["id"], "RUNNING")
    assert modelserve("logs", "tiny") == ""
    modelserve("scale", "tiny", "2")
    assert there() == 2
    modelserve("update", "tiny", "--env", "A=b")
    (found,) = cluster.api.get(deployments(namespace)).ok()["items"]
    assert {"name": "A", "value": "b"} in found["spec"]["template"]["spec"]["containers"][0]["env"]
    modelserve("stop", "tiny")
    assert there() == 0
    modelserve("resume", "tiny")
    assert there() == 2
    modelserve("rm", "tiny")
    places.until(lambda: not cluster.api.everything(namespace, "modelserve/run"), 60, "nothing to be left")
    assert json.loads(modelserve("runs", "--json")) == []


def test_runs_of_a_cluster_that_this_machine_does_not_know(
    cluster: Cluster, namespace: str, kubelet: Kubelet, modelserve: Said, serve: Callable[..., object]
) -> None:
    """The SDK's run is of another home."""
    serve(wait=True, log_info=False)
    place = [f"--kubeconfig={cluster.kubeconfig}", f"--namespace={namespace}"]
    assert json.loads(modelserve("runs", "--json")) == []
    (found,) = json.loads(modelserve("runs", "--json", "--target", "kubernetes", *place))
    assert (found["name"], found["state"]) == ("tiny", "RUNNING")
    modelserve("rm", found["id"])
    assert cluster.api.get(deployments(namespace)).ok()["items"] == []


def test_what_is_wrong_is_one_sentence(cluster: Cluster, modelserve: Said) -> None:
    place = [f"--kubeconfig={cluster.kubeconfig}", "--namespace=modelserve-test-not-there"]
    said = modelserve("run", "hf://prajjwal1/bert-tiny", "--target", "kubernetes", "--detach", *place, status=1)
    assert "modelserve-test-not-there" in said
    assert "Traceback" not in said
