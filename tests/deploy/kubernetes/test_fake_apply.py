"""Server-side apply of the fake, where nothing is recorded: several managers, fields that are left out, other writes.

Written from structured-merge-diff and from what servers are known to answer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.deploy.kubernetes import manifests
from tests.deploy.kubernetes.asking import ask
from tests.deploy.kubernetes.fake import Fake, cluster

_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"
_WEB = "/apis/apps/v1/namespaces/default/deployments/web"


@pytest.fixture
def fake() -> Iterator[Fake]:
    with cluster(held=True) as found:
        yield found


def _apply(fake: Fake, manifest: Any, manager: str = "us", **query: str) -> tuple[int, Any]:
    asked = "&".join(f"{key}={value}" for key, value in {"fieldManager": manager, **query}.items())
    return ask(fake, "PATCH", f"{_WEB}?{asked}", manifest, _APPLY)


def _container(found: Any) -> Any:
    return found["spec"]["template"]["spec"]["containers"][0]


def test_takes_yaml(fake: Fake) -> None:
    code, found = _apply(fake, yaml.safe_dump(manifests.deployment()))
    assert (code, found["spec"]["replicas"]) == (201, 1)


def test_a_field_that_is_left_out_goes(fake: Fake) -> None:
    probe = {"httpGet": {"path": "/", "port": 80}}
    env = [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]
    limits = {"limits": {"memory": "1Gi"}}
    _apply(fake, manifests.deployment(replicas=3, env=env, readinessProbe=probe, resources=limits))
    code, found = _apply(fake, manifests.deployment(replicas=None, env=env[1:]))
    assert code == 200
    assert _container(found)["env"] == [{"name": "B", "value": "2"}]
    assert "readinessProbe" not in _container(found)
    assert _container(found)["resources"] == {}
    assert found["spec"]["replicas"] == 1, "the default again"
    assert found["metadata"]["generation"] == 2


def test_a_field_that_another_has_too_stays(fake: Fake) -> None:
    _apply(fake, manifests.deployment(replicas=2))
    only = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": {"replicas": 2}}
    assert _apply(fake, only, "them")[0] == 200
    found = _apply(fake, manifests.deployment(replicas=None))[1]
    assert found["spec"]["replicas"] == 2
    managers = {one["manager"]: one["fieldsV1"] for one in found["metadata"]["managedFields"]}
    assert managers["them"] == {"f:spec": {"f:replicas": {}}}
    assert "f:replicas" not in managers["us"]["f:spec"]


def test_items_of_others_stay_in_a_list(fake: Fake) -> None:
    _apply(fake, manifests.deployment(env=[{"name": "A", "value": "1"}], ports=[{"containerPort": 80}]))
    theirs = manifests.deployment(env=[{"name": "Z", "value": "9"}])
    assert _apply(fake, theirs, "them")[0] == 200
    found = _apply(fake, manifests.deployment(ports=[{"containerPort": 80, "protocol": "TCP"}]))[1]
    assert _container(found)["env"] == [{"name": "Z", "value": "9"}]
    assert _container(found)["ports"] == [{"containerPort": 80, "protocol": "TCP"}]


def test_conflicts_with_each_manager_are_told_and_force_takes_the_fields(fake: Fake) -> None:
    _apply(fake, manifests.deployment(replicas=2, command=["a"]))
    code, found = _apply(fake, manifests.deployment(replicas=3, command=["b"]), "them")
    assert code == 409
    command = '.spec.template.spec.containers[name="c"].command'
    assert found["message"] == f'Apply failed with 2 conflicts: conflicts with "us":\n- .spec.replicas\n- {command}'
    assert [one["field"] for one in found["details"]["causes"]] == [".spec.replicas", command]
    code, found = _apply(fake, manifests.deployment(replicas=3, command=["b"]), "them", force="true")
    assert (code, found["spec"]["replicas"]) == (200, 3)
    ours = next(one["fieldsV1"] for one in found["metadata"]["managedFields"] if one["manager"] == "us")
    assert "f:replicas" not in ours["f:spec"]


def test_conflicts_with_who_has_patched_and_who_has_scaled(fake: Fake) -> None:
    _apply(fake, manifests.deployment(replicas=1))
    code, scale = ask(fake, "PATCH", f"{_WEB}/scale?fieldManager=hand", {"spec": {"replicas": 4}}, _MERGE)
    assert (code, scale["spec"]["replicas"]) == (200, 4)
    code, found = _apply(fake, manifests.deployment(replicas=1))
    assert code == 409
    assert found["details"]["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "hand" with subresource "scale" using apps/v1',
            "field": ".spec.replicas",
        }
    ]
    change = {"spec": {"template": {"spec": {"priorityClassName": "high"}}}}
    ask(fake, "PATCH", _WEB, change, "application/strategic-merge-patch+json")
    code, found = _apply(fake, manifests.deployment(replicas=4, spec={"priorityClassName": "low"}))
    assert (code, found["message"].partition(": ")[2]) == (
        409,
        'conflict with "tests" using apps/v1: .spec.template.spec.priorityClassName',
    )


def test_what_nobody_changes_is_no_new_version(fake: Fake) -> None:
    first = _apply(fake, manifests.deployment())[1]["metadata"]
    second = _apply(fake, manifests.deployment())[1]["metadata"]
    assert first == second


def test_a_dry_run_stores_nothing(fake: Fake) -> None:
    code, found = _apply(fake, manifests.deployment(), dryRun="All")
    assert (code, "resourceVersion" in found["metadata"]) == (201, False)
    assert fake.objects("Deployment") == []
    _apply(fake, manifests.deployment())
    code, found = _apply(fake, manifests.deployment(replicas=9), dryRun="All")
    assert (code, found["spec"]["replicas"], found["metadata"]["generation"]) == (200, 9, 2)
    assert fake.objects("Deployment")[0]["spec"]["replicas"] == 1


def test_what_cannot_be_changed_or_is_wrong(fake: Fake) -> None:
    path = "/api/v1/namespaces/default/persistentvolumeclaims/models?fieldManager=us"
    assert ask(fake, "PATCH", path, manifests.claim(), _APPLY)[0] == 201
    other = manifests.claim()
    other["spec"]["accessModes"] = ["ReadWriteMany"]
    code, found = ask(fake, "PATCH", f"{path}&force=true", other, _APPLY)
    assert (code, "spec is immutable after creation" in found["message"]) == (422, True)
    code, found = ask(fake, "PATCH", path, manifests.claim(size="12Zi"), _APPLY)
    assert (code, "quantities must match" in found["message"]) == (500, True)
    code, found = _apply(fake, manifests.deployment(replicas="two"))  # type: ignore[arg-type]
    assert (code, ".spec.replicas: expected numeric" in found["message"]) == (500, True)
    hpa = {"maxReplicas": 1, "minReplicas": 2, "scaleTargetRef": {"kind": "Deployment", "name": "web"}}
    manifest = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": {"name": "h"},
        "spec": hpa,
    }
    hpas = "/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers"
    assert ask(fake, "POST", hpas, manifest)[0] == 422


def test_a_create_leaves_out_what_it_does_not_know_unless_it_is_strict(fake: Fake) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    manifest = manifests.deployment()
    manifest["spec"]["foo"] = 1
    assert ask(fake, "POST", f"{path}?fieldValidation=Strict", manifest)[0] == 400
    code, found = ask(fake, "POST", path, manifest)
    assert (code, "foo" in found["spec"]) == (201, False)
    assert found["metadata"]["managedFields"][0]["operation"] == "Update"
    assert ask(fake, "POST", path, manifest)[0] == 409


def test_a_replace_and_a_json_patch(fake: Fake) -> None:
    found = _apply(fake, manifests.deployment())[1]
    found["spec"]["replicas"] = 2
    assert ask(fake, "PUT", _WEB, found)[1]["spec"]["replicas"] == 2
    steps = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    code, found = ask(fake, "PATCH", _WEB, steps, "application/json-patch+json")
    assert (code, found["spec"]["replicas"]) == (200, 5)


def test_a_service_keeps_its_addresses(fake: Fake) -> None:
    path = "/api/v1/namespaces/default/services/web?fieldManager=us"
    first = ask(fake, "PATCH", path, manifests.service(type="NodePort"), _APPLY)[1]["spec"]
    second = ask(fake, "PATCH", path, manifests.service(type="NodePort", selector={"app": "b"}), _APPLY)[1]["spec"]
    assert first["clusterIP"] == second["clusterIP"]
    assert first["ports"] == second["ports"]
    assert 30000 <= first["ports"][0]["nodePort"] <= 32767
    third = ask(fake, "PATCH", path, manifests.service(), _APPLY)[1]["spec"]
    assert "nodePort" not in third["ports"][0]
