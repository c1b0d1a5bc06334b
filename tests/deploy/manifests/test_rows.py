"""Every parameter of a run, where it lands in the cluster: nowhere but in the places that its row says.

The rows are the rule; what a row does not name must be as it is without the parameter. What comes out is held against
the schemas of Kubernetes, and against the rules that no schema knows.
"""

from __future__ import annotations

from typing import Any

import kubernetes_validate
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserve.deploy import parameters
from tests.deploy.manifests import rules, schemas
from tests.deploy.manifests.made import flat, made, of_kind, pod_of
from tests.deploy.manifests.rows import GONE, ROWS
from tests.deploy.test_parameters import SEED

EXISTING = [("Secret", "hf"), ("Secret", "other"), *(("PersistentVolumeClaim", n) for n in ("there", "data", "models"))]


def test_each_parameter_of_the_seeds_tables_has_a_row() -> None:
    """But profile, which is in test_template.py."""
    assert set(SEED.split()) - {name for name, _, _ in ROWS} == {"profile"}


def test_each_parameter_of_a_pod_has_a_row() -> None:
    own = {"scaling", "service_name", "labels", "annotations", "namespace", "profile", "flavor", "path", "model_name"}
    nowhere = {"kubeconfig", "context"}
    parted = {name for name, _, _ in ROWS if name in parameters._ROWS} | own | nowhere
    assert {row.name for row in parameters.POD} == parted


@pytest.mark.parametrize("name", ["kubeconfig", "context"])
def test_where_the_cluster_is_said_to_be_is_in_no_object(name: str) -> None:
    assert flat(made(**{name: "/home/me/config"})) == flat(made())


@pytest.mark.parametrize(("name", "value", "places"), ROWS, ids=[f"{n}-{i}" for i, (n, _, _) in enumerate(ROWS)])
def test_a_parameter_is_where_its_row_says_and_nowhere_else(name: str, value: Any, places: dict[str, Any]) -> None:
    plain, given = flat(made()), flat(made(**{name: value}))
    changed = {path: one for path, one in given.items() if plain.get(path, GONE) != one}
    changed |= dict.fromkeys(plain.keys() - given.keys(), GONE)
    noise = ("apiVersion", "kind", "metadata.labels", "metadata.annotations")
    kinds = ("PersistentVolumeClaim", "PodDisruptionBudget", "TritonDeployment", "TritonService")
    new = [kind for kind in kinds if f"{kind}.kind" not in plain]
    ours = {f"{kind}.{part}" for kind in new for part in noise}
    assert {p: one for p, one in changed.items() if not p.startswith(tuple(ours))} == places


OTHERS: list[tuple[str, Any, None]] = [
    ("scaling", {"max_replicas": 4, "target": {"modelserve_queue_size": "16"}}, None),
    ("service_name", "stable", None),
    ("namespace", "models", None),
    ("triton_values", {"KEY": "s3cret"}, None),
    ("labels", {"team": "ml"}, None),
    ("annotations", {"a.b/c": "any text"}, None),
    ("http_port", 9000, None),
    ("values", {"TOKEN": "s3cret"}, None),
    ("files", {"log_config_file.yaml": "version: 1\n"}, None),
]
MATRIX: list[dict[str, Any]] = [
    {},
    *({name: value} for name, value, _ in ROWS),
    {"scaling": {"max_replicas": 4}, "resources": {"cpu": "1"}, "model_cache": {"size": "1Gi"}},
    {"scaling": {"min_replicas": 2, "max_replicas": 4, "target": {"mem": 70, "modelserve_queue_size": "16"}},
     "resources": {"mem": {"limits": "1Gi"}}},
    {"service_name": "stable", "service_type": "LoadBalancer", "http_port": 9000, "grpc_port": 9001},
    {"namespace": "models", "values": {"TOKEN": "s3cret"}, "service_name": "stable", "disruption_budget": 1},
    {"labels": {"team": "ml", "example.org/a": ""}, "annotations": {"a.b/c": "any text: ü"}},
    {"values": {"TOKEN": "s3cret"}, "files": {"chat_template.jinja": "{{ x }}\n"}, "image_pull_policy": "Always"},
    {"name": "A Model_with.an+awkward name" * 9, "project": "p+" * 100, "id": "an.id_of+old"},
    {"kind": "sklearnserve", "path": "s3://bucket/iris.skops", "replicas": 2, "disruption_budget": 1},
    {"triton": {"model_repository": "s3://models/bert", "secrets": ["AWS_SECRET_ACCESS_KEY", "secret://other/KEY"]},
     "triton_values": {"AWS_SECRET_ACCESS_KEY": "s3cret"}, "values": {"TOKEN": "s3cret"}, "name": "triton",
     "scaling": {"max_replicas": 4}, "resources": {"cpu": "1"}, "disruption_budget": 1, "service_name": "stable"},
    {"triton": {"model_repository": {"claim_name": "there"}, "form": "deployment", "secrets": ["A"], "replicas": 3},
     "triton_values": {"A": "s3cret"}, "namespace": "models", "labels": {"team": "ml"}, "replicas": 2,
     "scaling": {"max_replicas": 4}, "resources": {"cpu": "1"}, "disruption_budget": 1, "service_name": "stable",
     "predictor_protocol": "grpc-v2", "id": "an.id_of+old", "name": "A Model_with.an+awkward name" * 9},
    {"volumes": [
        {"volume_type": "persistent_volume_claim", "name": "My Data", "mount_path": "/a", "spec": {"sub_path": "x"}},
        {"volume_type": "persistent_volume_claim", "name": "My Data", "mount_path": "/b", "spec": {"sub_path": "y"}},
        {"volume_type": "empty_dir", "name": "modelserve-cache", "mount_path": "/dev/shm/"},
        {"volume_type": "empty_dir", "name": "modelserve-tmp", "mount_path": "/cache"},
    ]},
]  # fmt: skip


def versions(given: dict[str, Any]) -> list[str]:
    """Those that know it, the oldest first: sidecars have been there since 1.29."""
    beside = given.get("triton", {"form": "deployment"}).get("form", "container").lower() == "container"
    return [one for one in schemas.VERSIONS if not beside or int(one.partition(".")[2]) >= 29]


@pytest.mark.parametrize("given", MATRIX, ids=[f"{'+'.join(one)}-{i}" for i, one in enumerate(MATRIX)])
def test_every_manifest_is_what_an_api_server_takes(given: dict[str, Any]) -> None:
    found = made(**given)
    for version in (versions(given)[0], schemas.VERSIONS[-1]):
        assert [fault for one in found for fault in schemas.faults(one, version)] == []
    assert rules.broken(found, EXISTING) == []


@settings(max_examples=200, deadline=None)
@given(rows=st.lists(st.sampled_from([*ROWS, *OTHERS]), unique_by=lambda row: row[0]))
def test_so_is_any_mixture_of_them(rows: list[tuple[str, Any, Any]]) -> None:
    chosen = {name: value for name, value, _ in rows}
    if "triton" in chosen:  # a predictor of the run's own
        chosen = {name: value for name, value in chosen.items() if name not in ("predictor_host", "predictor_use_ssl")}
    found = made(**chosen)
    assert [fault for one in found for fault in schemas.faults(one, schemas.VERSIONS[-1])] == []
    assert rules.broken(found, EXISTING) == []


@pytest.mark.slow
def test_in_every_version_that_there_are_schemas_of() -> None:
    assert len(schemas.VERSIONS) > 5
    for case in MATRIX:
        for version in versions(case):
            assert [fault for one in made(**case) for fault in schemas.faults(one, version)] == []


def test_the_schemas_are_those_of_kubernetes_validate() -> None:
    """And they see what is wrong."""
    for one in made(scaling={"max_replicas": 2}, resources={"cpu": "1"}, disruption_budget=1, model_cache="1Gi"):
        assert kubernetes_validate.validate(one, schemas.VERSIONS[-1], strict=True) == schemas.VERSIONS[-1]
    wrong = of_kind(made(), "Deployment")
    wrong["spec"]["template"]["spec"]["containers"][0]["imagePullpolicy"] = "Always"
    assert "imagePullpolicy" in " ".join(schemas.faults(wrong, "1.37"))
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, "1.37", strict=True)


TOKEN = {"name": "X", "valueFrom": {"secretKeyRef": {"name": "gone", "key": "X"}}}
WRONG: list[tuple[str, Any]] = [
    ("Deployment selects", lambda d, p, c, s: d["selector"]["matchLabels"].update(a="b")),
    ("port 99999", lambda d, p, c, s: c["ports"][0].update(containerPort=99999)),
    ("imagePullPolicy", lambda d, p, c, s: c.update(imagePullPolicy="Maybe")),
    ("two containers", lambda d, p, c, s: p["containers"].append(dict(c))),
    ("container 'Box'", lambda d, p, c, s: c.update(name="Box")),
    ("mount of no volume", lambda d, p, c, s: p["volumes"].pop()),
    ("is no quantity", lambda d, p, c, s: c.update(resources={"requests": {"memory": "12Zi"}})),
    ("no Secret", lambda d, p, c, s: c["env"].append(TOKEN)),
    ("no PersistentVolumeClaim", lambda d, p, c, s: p["volumes"][0].update(persistentVolumeClaim={"claimName": "x"})),
    ("Service selects", lambda d, p, c, s: s["selector"].update(a="b")),
    ("leads to no port", lambda d, p, c, s: s["ports"][0].update(targetPort="web")),
    ("killed before", lambda d, p, c, s: p.update(terminationGracePeriodSeconds=5)),
    ("the deadline is over", lambda d, p, c, s: d.update(progressDeadlineSeconds=600)),
]


@pytest.mark.parametrize(("said", "break_"), WRONG, ids=[said for said, _ in WRONG])
def test_the_rules_see(said: str, break_: Any) -> None:
    """The recorded mistakes that the schemas do not catch, and more."""
    found = made()
    deployment, service = of_kind(found, "Deployment")["spec"], of_kind(found, "Service")["spec"]
    (container,) = pod_of(found)["containers"]
    break_(deployment, pod_of(found), container, service)
    assert said in "\n".join(rules.broken(found))


def test_the_rules_see_names() -> None:
    found = made()
    of_kind(found, "Deployment")["metadata"]["name"] = "Bert"
    of_kind(found, "Service")["metadata"]["name"] = "7b"
    assert rules.broken(found) == ["Deployment: name 'Bert'", "Service: name '7b'"]
    assert rules.broken([*found, found[0]])[0] == "two Deployment Bert"
