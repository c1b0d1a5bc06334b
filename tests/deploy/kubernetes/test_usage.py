"""What a run's pods use, by a metrics server of the fake cluster; and where there is none."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import modelserve as ms
from modelserve.deploy.kubernetes import usage
from modelserve.deploy.kubernetes.cluster import Cluster
from modelserve.deploy.target import Usage
from modelserve.errors import TargetRefused, TargetUnreachable
from tests.deploy.kubernetes.fake import Fake
from tests.deploy.kubernetes.manifests import deployment

RUN = "app=web"


@pytest.fixture
def api(fake: Fake, tmp_path: Path) -> Iterator[Cluster]:
    found = Cluster(str(fake.kubeconfig(tmp_path / "config")))
    yield found
    found.close()


def _up(fake: Fake, replicas: int, containers: int = 1) -> None:
    several = [{"name": f"c{number}", "image": "busybox:1"} for number in range(containers)]
    fake.add(deployment(replicas=replicas, spec={"containers": several}))
    fake.wait(lambda: [pod["status"].get("phase") for pod in fake.objects("Pod")] == ["Running"] * replicas)


@pytest.mark.parametrize(
    ("cpu", "memory", "cores", "used"),
    [
        ("12345678n", "123456Ki", 4 * 0.012345678, 4 * 123456 * 1024),
        ("250m", "128Mi", 1.0, 4 * 2**27),
        ("1", "1000", 4.0, 4000),
        ("0", "0", 0.0, 0),
        ("333333u", "1.5Gi", 4 * 0.333333, 6 * 2**30),
    ],
)
def test_the_sum_of_all_containers(fake: Fake, api: Cluster, cpu: str, memory: str, cores: float, used: int) -> None:
    fake.install("metrics.k8s.io")
    fake.state.usage = {"cpu": cpu, "memory": memory}
    _up(fake, replicas=2, containers=2)
    assert usage.of(api, RUN) == Usage(cores, used)


def test_nothing_is_known_of_pods_that_have_not_begun(fake: Fake, api: Cluster) -> None:
    fake.install("metrics.k8s.io")
    assert usage.of(api, RUN) == Usage()


def test_what_a_metrics_server_leaves_out(fake: Fake, api: Cluster) -> None:
    fake.install("metrics.k8s.io")
    fake.state.usage = {"memory": "1Mi"}
    _up(fake, 1)
    assert usage.of(api, RUN) == Usage(None, 2**20)


def test_no_metrics_server_or_none_for_us(fake: Fake, api: Cluster) -> None:
    _up(fake, 1)
    with pytest.raises(TargetRefused) as found:
        usage.of(api, RUN)
    assert found.value.status == 404
    fake.install("metrics.k8s.io")
    fake.deny("list", "pods")
    with pytest.raises(TargetRefused) as found:
        usage.of(api, RUN)
    assert found.value.status == 403


def test_a_run_without_metrics_is_a_run(fake: Fake, bert: ms.Function) -> None:
    """Nobody knows what it uses, which is no error; and nobody asks again for each run that is listed."""
    for _ in range(2):
        bert.run("serve", target="kubernetes")
    assert [run.usage for run in ms.list_runs()] == [Usage(), Usage()]
    assert sum("metrics.k8s.io" in path for _, path in fake.requests) == 1


def test_a_cluster_that_knows_nobody_or_does_not_answer(fake: Fake, tmp_path: Path) -> None:
    stranger = Cluster(str(fake.kubeconfig(tmp_path / "config", token="wrong")))
    fake.install("metrics.k8s.io")
    with pytest.raises(TargetRefused, match="does not know you"):
        usage.of(stranger, RUN)
    fake.vanish()
    with pytest.raises(TargetUnreachable, match="does not answer"):
        usage.of(stranger, RUN)
    stranger.close()
