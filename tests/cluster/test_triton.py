"""A Triton with pods of its own behind a run, on a real API server; kubelet.py says of all pods that they are ready."""

from __future__ import annotations

import pytest

import modelserve as ms
from tests.cluster.api import Api, deployments
from tests.cluster.cluster import Cluster, Serve
from tests.cluster.kubelet import Kubelet

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

TRITON = {"model_repository": "s3://models", "form": "deployment", "replicas": 2}


def generations(api: Api, namespace: str, run: ms.Run) -> dict[str, int]:
    """Of its Deployments, "" the server's and "-triton" the other."""
    listed = api.get(deployments(namespace), labelSelector=f"modelserve/run={run.id}").ok()["items"]
    return {
        one["metadata"]["name"].removeprefix(f"tiny-{run.id[:12]}"): one["metadata"]["generation"] for one in listed
    }


def test_from_nothing_to_nothing(cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve) -> None:
    run = serve(triton=TRITON, wait=True, timeout=60, log_info=False)
    before = generations(cluster.api, namespace, run)
    assert set(before) == {"", "-triton"}
    assert [one["kind"] for one in run.manifest()].count("Deployment") == 2
    run.update(envs={"A": "1"}, wait=True, timeout=60, log_info=False)
    after = generations(cluster.api, namespace, run)
    assert after["-triton"] == before["-triton"], "what changes the server leaves its Triton alone"
    assert after[""] > before[""]
    run.stop()
    run.resume(wait=True, timeout=60, log_info=False)
    run.update(triton=None, wait=True, timeout=60, log_info=False)
    assert set(generations(cluster.api, namespace, run)) == {""}
    run.delete()
    assert generations(cluster.api, namespace, run) == {}
