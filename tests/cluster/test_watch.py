"""wait() outlives its connection: cut in the midst, away for a while, and from a version that the server has forgotten.

The SDK asks through a line that the test cuts (line.py); everything else asks the API server directly.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy.kubernetes import doorbell
from modelserve.deploy.kubernetes.cluster import Cluster as SdkCluster
from modelserve.errors import ModelServeError, TargetError
from tests.cluster import kubelet as kubelets
from tests.cluster import places
from tests.cluster.api import in_namespace, pods
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
    with line(cluster, tmp_path) as made:
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
    cluster: Cluster, namespace: str, kubelet: Kubelet, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """410: a watch has ended, as all do after a while, and the version from which it would go on is compacted away."""
    if not cluster.etcd:
        pytest.skip(f"{control_plane.ETCD} is not set, so nobody may compact the cluster's etcd")
    monkeypatch.setattr(doorbell, "_WATCH_S", 2)
    asked: list[tuple[str, str]] = []
    watch = SdkCluster.watch

    def noted(self: SdkCluster, kind: str, labels: str, version: str, timeout_s: int) -> Any:
        asked.append((kind, version))
        return watch(self, kind, labels, version, timeout_s)

    monkeypatch.setattr(SdkCluster, "watch", noted)
    kubelet.say(kubelets.nothing)
    run = serve()
    places.until(lambda: cluster.api.get(pods(namespace)).ok()["items"], 30, "a pod")
    waiting = Waiting(run)
    places.until(lambda: asked.count(("Pod", asked[-1][1])) > 1 if asked else False, 30, "a watch that goes on")
    forgotten = next(version for kind, version in reversed(asked) if kind == "Pod")
    configmaps = in_namespace("v1", namespace, "configmaps")
    for number in range(3):  # nothing that the watches are of
        cluster.api.create(configmaps, {"metadata": {"name": f"other-{number}"}}).ok()
    control_plane.compact(cluster.etcd)
    said = cluster.api.get(pods(namespace), watch="true", resourceVersion=forgotten, timeoutSeconds=1)
    assert (said.status, said.json["object"]["code"]) == (200, 410), said.text
    places.until(lambda: any(one[0] == "Pod" and one[1] != forgotten for one in asked[-2:]), 30, "a new list")
    assert waiting.ended is None, waiting.error
    kubelet.say(kubelets.ready)
    waiting.join(30)
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
