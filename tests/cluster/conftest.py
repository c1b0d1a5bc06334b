"""The suite of a real cluster: `make test-cluster`, or MODELSERVE_TEST_KUBECONFIG=… pytest -m cluster tests/cluster.

It is told by the environment, since no two clusters are alike:

    MODELSERVE_TEST_KUBECONFIG         the cluster; without it the whole suite is skipped
    MODELSERVE_TEST_CONTEXT            its context; the file's current one where not given
    MODELSERVE_TEST_IMAGE              an image of this version that the nodes have or can pull
    MODELSERVE_TEST_IMAGE_PULL_POLICY  Always, IfNotPresent or Never
    MODELSERVE_TEST_MODEL              what is served: a model id, or a path that a volume has; hf://prajjwal1/bert-tiny
    MODELSERVE_TEST_TASK               its task; fill_mask
    MODELSERVE_TEST_VOLUMES            further volumes, as `volumes` of a run, in JSON
    MODELSERVE_TEST_NODE_SELECTOR      labels of the nodes to use, as JSON: {"pool": "tests"}
    MODELSERVE_TEST_TIMEOUT            seconds for a pod to answer; 600
    MODELSERVE_TEST_ETCD               URL of the cluster's etcd, where it may be compacted (make test-cluster's may)

Every test works in namespaces of its own, labelled modelserve-test, which it makes and removes. The user of the
kubeconfig must be allowed to make namespaces, and accounts and roles in them.

Where there are no nodes, kubelet.py says what nodes would say of the pods; where there are, what wants pods that only
seem to run is skipped. test_life.py serves a real model in both: in pods, or in processes of this machine (node.py).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from tests.cluster import kubelet as kubelets
from tests.cluster import places
from tests.cluster.cluster import Cluster, Serve
from tests.deploy.kubernetes.control_plane import KUBECONFIG


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    if not os.environ.get(KUBECONFIG):
        pytest.skip(f"{KUBECONFIG} names no cluster; make test-cluster brings one")
    found = Cluster.of_environment()
    yield found
    found.api.close()


@pytest.fixture(scope="session")
def made(cluster: Cluster) -> Iterator[list[str]]:
    """Namespaces of the session's tests. A cluster takes seconds to remove one, so their end is awaited together."""
    names: list[str] = []
    yield names
    places.gone(cluster.api, names)


@pytest.fixture
def namespace(cluster: Cluster, made: list[str]) -> Iterator[str]:
    with places.namespace(cluster.api) as name:
        made.append(name)
        yield name


@pytest.fixture
def kubelet(cluster: Cluster, namespace: str) -> Iterator[kubelets.Kubelet]:
    """Says that every pod is ready, until it is told something else."""
    if cluster.nodes:
        pytest.skip(f"the cluster has nodes ({cluster.nodes}), which say themselves what its pods are: test_life.py")
    with kubelets.Kubelet(cluster.api, namespace, kubelets.ready) as running:
        yield running


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ms.Project:
    """In a home of its own, so that no test sees another's runs."""
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    return ms.get_or_create_project("demo")


@pytest.fixture
def function(project: ms.Project, cluster: Cluster) -> ms.Function:
    return project.new_function(name="tiny", kind="huggingfaceserve", path=cluster.model, model_name="tiny")


@pytest.fixture
def parameters(cluster: Cluster, namespace: str) -> dict[str, Any]:
    """Of every run, in the namespace."""
    image = cluster.image or "registry.invalid/modelserve:none"  # where there are no nodes, it is all the same
    return {**cluster.place, **cluster.pods, "namespace": namespace, "image": image}


@pytest.fixture
def serve(function: ms.Function, parameters: dict[str, Any]) -> Serve:
    """function.run in the namespace."""

    def run(of: ms.Function = function, **said: Any) -> ms.Run:
        return of.run(action="serve", target="kubernetes", **(parameters | said))

    return run
