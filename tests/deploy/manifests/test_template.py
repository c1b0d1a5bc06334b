"""What a profile has for Kubernetes alone: laid under what we make, and never changed."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

import modelserve as ms
from modelserve.deploy.manifests.template import laid_over
from tests.deploy.manifests import rules, schemas
from tests.deploy.manifests.made import container_of, made, of_kind, pod_of
from tests.deploy.nowhere import use

BASE: dict[str, Any] = {
    "kind": "Deployment",
    "spec": {
        "replicas": 9,
        "minReadySeconds": 5,
        "selector": {"matchLabels": {"app": "theirs"}},
        "template": {
            "metadata": {"labels": {"app": "theirs"}, "annotations": {"sidecar": "yes"}},
            "spec": {
                "dnsPolicy": "ClusterFirst",
                "terminationGracePeriodSeconds": 1,
                "containers": [
                    {"name": "proxy", "image": "proxy:1"},
                    {"name": "modelserve", "image": "other:1", "tty": True, "env": [{"name": "A", "value": "base"}]},
                ],
                "volumes": [{"name": "certificates", "secret": {"secretName": "ca"}}],
            },
        },
    },
}


def test_what_we_say_wins_and_the_rest_stays() -> None:
    found = made(template={"bases": [BASE]}, envs={"A": "run"})
    deployment, pod = of_kind(found, "Deployment"), pod_of(found)
    assert (deployment["spec"]["replicas"], deployment["spec"]["minReadySeconds"]) == (1, 5)
    assert (pod["dnsPolicy"], pod["terminationGracePeriodSeconds"]) == ("ClusterFirst", 45)
    assert [one["name"] for one in pod["containers"]] == ["modelserve", "proxy"], "the server first"
    box = pod["containers"][0]
    assert (box["image"], box["tty"]) == ("modelserve:test", True)
    assert {one["name"]: one.get("value") for one in box["env"]}["A"] == "run"
    assert [one["name"] for one in pod["volumes"]][-1] == "certificates"
    assert set(deployment["spec"]["selector"]["matchLabels"]) == {"modelserve/run"}, "a selector is ours as a whole"
    assert deployment["spec"]["template"]["metadata"]["annotations"]["sidecar"] == "yes"
    assert [fault for one in found for fault in schemas.faults(one, "1.37")] == []


def test_a_base_is_only_for_its_kind_and_is_never_changed() -> None:
    before = copy.deepcopy(BASE)
    found = made(template={"bases": [BASE, {"kind": "Job", "spec": {"a": 1}}]})
    pod_of(found)["containers"][1]["image"] = "spoilt"
    assert before == BASE
    assert [one["kind"] for one in found] == ["Deployment", "Service"]
    assert "dnsPolicy" not in pod_of(made())


def test_the_parts_that_are_no_parameters() -> None:
    template = {
        "labels": [{"name": "team", "value": "ml"}, {"name": "cost", "value": "1"}],
        "service_ports": [{"port": 80, "target_port": 8080}, {"port": 81, "targetPort": 8080}, {"port": 9090}],
        "gpu_key": "nvidia.com/mig-1g.5gb",
    }
    found = made(template=template, labels={"cost": "2"}, resources={"gpu": "1"})
    labels = of_kind(found, "Deployment")["metadata"]["labels"]
    assert (labels["team"], labels["cost"]) == ("ml", "2"), "the run wins"
    ports = [(p["name"], p["port"], p["targetPort"]) for p in of_kind(found, "Service")["spec"]["ports"]]
    assert ports == [("http", 80, "http"), ("port-81", 81, "http"), ("port-9090", 9090, 9090)]
    assert container_of(found)["resources"]["limits"] == {"nvidia.com/mig-1g.5gb": "1"}
    assert rules.broken(found) == []


@pytest.mark.parametrize(
    ("under", "over", "both"),
    [
        ({"a": 1}, {"b": 2}, {"b": 2, "a": 1}),
        ({"a": [1, 2]}, {"a": [3]}, {"a": [3]}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}}, {"a": {"b": 3, "c": 2}}),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "y"}]}, {"a": [{"name": "y"}, {"name": "x", "v": 1}]}),
        ({"a": [{"name": "x", "v": 1}]}, {"a": [{"name": "x", "w": 2}]}, {"a": [{"name": "x", "w": 2}]}),
        (
            {"containers": [{"name": "x", "v": 1}]},
            {"containers": [{"name": "x", "w": 2}]},
            {"containers": [{"name": "x", "w": 2, "v": 1}]},
        ),
        ({"livenessProbe": {"exec": {}}}, {"livenessProbe": {"httpGet": {}}}, {"livenessProbe": {"httpGet": {}}}),
        ({"a": "text"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
        ({"a": None}, {"a": 1}, {"a": 1}),
        ({"a": 1}, {"a": 0}, {"a": 0}),
    ],
)
def test_the_rule(under: Any, over: Any, both: Any) -> None:
    assert laid_over(under, over) == both


def test_a_file_of_several_documents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded form, from its file to the manifests; the run wins over the profile, a parameter as a whole."""
    use(monkeypatch, tmp_path)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "gpu.yaml").write_text(
        "id: 1xa100\n"
        "resources: {requests: {nvidia.com/gpu: '1'}, limits: {cpu: '5', nvidia.com/gpu: '1'}}\n"
        "node_selector: [{key: gpu, value: a100}]\n"
        "tolerations: [{key: nvidia.com/gpu, operator: Equal, value: a100, effect: NoSchedule}]\n"
        "priorityClass: high\nlabels: [{name: team, value: ml}]\nserviceType: NodePort\ngpuKey: amd.com/gpu\n"
        "servicePorts: [{port: 80, target_port: 8080}]\n"
        "---\nkind: Deployment\nspec: {template: {spec: {dnsPolicy: Default}}}\n"
    )
    function = ms.new_function("demo", "bert", "huggingfaceserve", path="hf://a/b")
    found = function.manifest("serve", profile="1xa100", node_selector={"zone": "b"})
    pod, box = pod_of(found), container_of(found)
    assert (pod["priorityClassName"], pod["nodeSelector"], pod["dnsPolicy"]) == ("high", {"zone": "b"}, "Default")
    assert pod["tolerations"][0]["value"] == "a100"
    assert box["resources"] == {"limits": {"amd.com/gpu": "1", "cpu": "5"}, "requests": {"amd.com/gpu": "1"}}
    assert of_kind(found, "Service")["spec"]["type"] == "NodePort"
    assert of_kind(found, "Service")["spec"]["ports"][0]["port"] == 80
    labels = of_kind(found, "Deployment")["metadata"]["labels"]
    assert (labels["team"], labels["modelserve/profile"]) == ("ml", "1xa100")
