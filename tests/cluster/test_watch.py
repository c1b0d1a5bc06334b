"""wait() outlives its connection: cut in the midst, away for a while, and from a version that the server has forgotten.

The SDK asks through a line that the test cuts (line.py); everything else asks the API server directly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelserve as ms
from modelserve.errors import ModelServeError, TargetError
from tests.cluster import kubelet as kubelets
from tests.cluster import places
from tests.cluster.api import deployments, pods
from tests.cluster.cluster import Cluster, Serve
from tests.cluster.kubelet import Kubelet
from tests.cluster.line import Line, line
from tests.deploy.kubernetes import control_plane

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]


class Waiting:
    """A wait() in a thread."""

    def __init__(self, run: ms.Run, timeout_s: float = 90) -> None:
        self.ended: float | None = None
        self.error: ModelServeError | None = None
        self._thread = threading.Thread(target=self._wait, args=(run, timeout_s), daemon=True)
        self._thread.start()

    def _wait(self, run: ms.Run, timeout_s: float) -> None:
        try:
            run.wait(timeout=timeout_s, log_info=False)
        except ModelServeError as error:
            self.error = error
        self.ended = time.monotonic()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), "wait() hangs"


@pytest.fixture
def cut(cluster: Cluster, tmp_path: Path) -> Iterator[tuple[Line, Path]]:
    with line(cluster.kubeconfig, cluster.context, tmp_path) as made:
        yield made


def test_a_wait_sees_at_once_what_happens(kubelet: Kubelet, serve: Serve) -> None:
    kubelet.say(kubelets.nothing)
    run = serve()
    waiting = Waiting(run)
    time.sleep(1)  # long enough for watches to be there; the test holds either way
    kubelet.say(kubelets.ready)
    waiting.join(30)
    assert waiting.error is None
    assert run.state == "RUNNING"


def test_a_wait_whose_connections_are_cut_again_and_again(
    kubelet: Kubelet, serve: Serve, cut: tuple[Line, Path]
) -> None:
    forwarder, kubeconfig = cut
    kubelet.say(kubelets.loading)
    run = serve(kubeconfig=str(kubeconfig), context=None)
    waiting = Waiting(run)
    for _ in range(5):
        before = forwarder.count
        forwarder.cut()
        places.until(lambda before=before: forwarder.count > before, 30, "it to come back")  # type: ignore[misc]
    assert waiting.ended is None
    kubelet.say(kubelets.ready)
    waiting.join(60)
    assert waiting.error is None
    assert run.state == "RUNNING"


def test_a_wait_while_the_cluster_is_away_for_some_seconds(
    kubelet: Kubelet, serve: Serve, cut: tuple[Line, Path]
) -> None:
    forwarder, kubeconfig = cut
    kubelet.say(kubelets.loading)
    run = serve(kubeconfig=str(kubeconfig), context=None)
    waiting = Waiting(run)
    time.sleep(1)
    with forwarder.down():
        kubelet.say(kubelets.ready)  # nobody hears of it
        time.sleep(5)
        assert waiting.ended is None, waiting.error
    waiting.join(60)
    assert waiting.error is None
    assert run.state == "RUNNING"


def test_a_wait_from_a_version_that_is_forgotten(
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, cut: tuple[Line, Path]
) -> None:
    """410: the watches' version is compacted away while they are cut off."""
    if not cluster.etcd:
        pytest.skip(f"{control_plane.ETCD} is not set, so nobody may compact the cluster's etcd")
    forwarder, kubeconfig = cut
    kubelet.say(kubelets.loading)
    run = serve(kubeconfig=str(kubeconfig), context=None)
    waiting = Waiting(run)
    time.sleep(1)
    old = cluster.api.get(pods(namespace)).ok()["metadata"]["resourceVersion"]
    with forwarder.down():
        (found,) = cluster.api.get(deployments(namespace)).ok()["items"]
        path = deployments(namespace, found["metadata"]["name"])
        for number in range(3):
            cluster.api.merge(path, {"metadata": {"annotations": {"test": str(number)}}}).ok()
        control_plane.compact(cluster.etcd)
        said = cluster.api.get(pods(namespace), watch="true", resourceVersion=old, timeoutSeconds=1)
        assert said.status == 410 or '"code":410' in said.text, said.text
    before = forwarder.count
    places.until(lambda: forwarder.count > before, 30, "it to come back")
    assert waiting.ended is None, waiting.error
    kubelet.say(kubelets.ready)
    waiting.join(60)
    assert waiting.error is None
    assert run.state == "RUNNING"


def test_a_cluster_that_vanishes_is_an_error_and_no_hang(
    kubelet: Kubelet, serve: Serve, cut: tuple[Line, Path]
) -> None:
    forwarder, kubeconfig = cut
    kubelet.say(kubelets.loading)
    run = serve(kubeconfig=str(kubeconfig), context=None)
    waiting = Waiting(run, timeout_s=150)
    time.sleep(1)
    with forwarder.down():
        waiting.join(120)
        assert isinstance(waiting.error, TargetError)
        assert "does not answer" in waiting.error.message
    assert run.refresh().state == "PENDING"  # and it is there again
