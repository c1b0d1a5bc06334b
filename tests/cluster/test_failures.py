"""What keeps pods from answering is said by wait() early, in one sentence with the cluster's own words.

On a real API server whose pods' statuses kubelet.py gives: what nodes said when it was recorded.
"""

from __future__ import annotations

import time

import pytest

from modelserve.deploy.kubernetes import noted
from modelserve.errors import RunFailed, WaitTimeout
from tests.cluster import kubelet as kubelets
from tests.cluster.cluster import Serve
from tests.cluster.kubelet import Kubelet, Saying

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(200)]

HOPELESS = [
    (kubelets.image_never_there, ["cannot be pulled", "registry.invalid/modelserve:none", "pull policy of Never"]),
    (kubelets.image_pull_back_off, ["cannot be pulled", "registry.invalid/modelserve:none", "not found"]),
    (kubelets.secret_missing, ['secret "absent" not found']),
    (kubelets.crash_loop, ["exit code 7", "3 times"]),
    (kubelets.oom_killed, ["OOMKilled", "memory"]),
    (kubelets.claim_missing, ['persistentvolumeclaim "absent" not found']),
]


@pytest.mark.parametrize(("saying", "words"), HOPELESS, ids=[saying.__name__ for saying, _ in HOPELESS])
def test_the_cause_is_said_early(kubelet: Kubelet, serve: Serve, saying: Saying, words: list[str]) -> None:
    kubelet.say(saying)
    run = serve()
    begun = time.monotonic()
    with pytest.raises(RunFailed) as failed:
        run.wait(timeout=120, log_info=False)
    assert time.monotonic() - begun < 60  # not its deadline
    assert run.state == "ERROR"
    for word in words:
        assert word in failed.value.message, failed.value.message
    assert run.status.message
    run.delete()


def test_no_node_takes_it(kubelet: Kubelet, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """With patience, since a node may be on its way; then with the scheduler's words."""
    monkeypatch.setattr(noted, "_PATIENCE_S", 3.0)
    kubelet.say(kubelets.unschedulable)
    run = serve()
    with pytest.raises(RunFailed, match=r"Insufficient nvidia\.com/gpu"):
        run.wait(timeout=120, log_info=False)
    run.delete()


def test_a_deadline_says_what_it_was_waiting_for(kubelet: Kubelet, serve: Serve) -> None:
    kubelet.say(kubelets.loading)
    run = serve()
    with pytest.raises(WaitTimeout, match="PENDING") as late:
        run.wait(timeout=3, log_info=False)
    assert "0 of 1" in late.value.message or "connection refused" in late.value.message
    assert run.state == "PENDING"
    run.delete()


def test_a_cluster_that_goes_on_trying_and_succeeds(kubelet: Kubelet, serve: Serve) -> None:
    """An image that is pushed late: the run is not lost to whoever gave up on it."""
    kubelet.say(kubelets.image_pull_back_off)
    run = serve()
    with pytest.raises(RunFailed):
        run.wait(timeout=120, log_info=False)
    kubelet.say(kubelets.ready)
    deadline = time.monotonic() + 60
    while run.refresh().state != "RUNNING" and time.monotonic() < deadline:
        time.sleep(0.2)
    assert run.state == "RUNNING"
    run.delete()
