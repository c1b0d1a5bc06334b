"""What we have applied of an object is what it was applied as, whatever the cluster and others have added."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelserve.deploy.kubernetes import own_fields
from modelserve.deploy.kubernetes.cluster import MANAGER, Cluster
from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.fake import Fake
from tests.deploy.kubernetes.recorded import exchanges

FULL = manifests.deployment(
    replicas=2,
    env=[{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"secretKeyRef": {"name": "s", "key": "B"}}}],
    ports=[{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
    args=["--a", "--b"],
    volumeMounts=[{"name": "cache", "mountPath": "/cache"}],
    resources={"requests": {"cpu": "1"}},
    spec={"volumes": [{"name": "cache", "emptyDir": {}}], "tolerations": [{"operator": "Exists"}]},
)


def test_as_a_real_cluster_has_kept_it() -> None:
    (one,) = (one for one in exchanges() if one.title == "apply creates (201)")
    kept: dict[str, Any] = dict(one.response)
    for entry in kept["metadata"]["managedFields"]:
        entry["manager"] = MANAGER
    wanted = one.request | {"metadata": one.request["metadata"] | {"namespace": "tr"}}
    assert own_fields.of(kept) == wanted


@pytest.mark.parametrize("manifest", [FULL, manifests.service(), manifests.claim()], ids=lambda one: str(one["kind"]))
def test_as_it_was_applied(fake: Fake, tmp_path: Path, manifest: dict[str, Any]) -> None:
    cluster = Cluster(str(fake.kubeconfig(tmp_path / "k")))
    found = cluster.apply(manifest)
    assert own_fields.of(found) == manifest | {"metadata": manifest["metadata"] | {"namespace": "default"}}
    cluster.close()


def test_a_scale_is_no_apply(fake: Fake, tmp_path: Path) -> None:
    cluster = Cluster(str(fake.kubeconfig(tmp_path / "k")))
    cluster.apply(FULL)
    cluster.scale("Deployment", "web", 5)
    found = cluster.get("Deployment", "web")
    assert found is not None
    assert found["spec"]["replicas"] == 5
    assert own_fields.of(found)["spec"]["template"] == FULL["spec"]["template"]
    cluster.close()


def test_of_what_we_have_not_applied(fake: Fake) -> None:
    found = fake.add(manifests.deployment())
    assert own_fields.of(found) == {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
    }
