"""Profiles: files of defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from modelserve.deploy import profiles
from modelserve.errors import ConfigError

RECORDED = """\
id: 1xa100
name: 1 x A100
description: one GPU
resources: {requests: {nvidia.com/gpu: "1"}, limits: {cpu: "5", nvidia.com/gpu: "1"}}
node_selector: [{key: gpu, value: a100}]
tolerations: [{key: nvidia.com/gpu, operator: Equal, value: a100, effect: NoSchedule}]
affinity: {}
priorityClass: high
labels: [{name: team, value: ml}]
volumes: []
replicas: 1
serviceType: ClusterIP
servicePorts: [{port: 8080, target_port: 8080}]
---
kind: Deployment
spec: {template: {spec: {dnsPolicy: ClusterFirst}}}
---
note: neither a profile nor a base
"""


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path))
    (tmp_path / "profiles").mkdir()
    return tmp_path / "profiles"


def refused(name: str) -> str:
    with pytest.raises(ConfigError) as found:
        profiles.load(name)
    return found.value.message


def test_a_mapping(directory: Path) -> None:
    (directory / "small.yaml").write_text("resources: {cpu: 2, mem: {limits: 4Gi}}\nmax_length: 64\nreplicas: 2\n")
    assert profiles.load("small") == {
        "resources": {"cpu": {"requests": "2"}, "mem": {"limits": "4Gi"}},
        "max_length": 64,
        "replicas": 2,
    }


@pytest.mark.parametrize("name", ["1xa100", "gpu"])
def test_the_recorded_form_by_its_id_and_by_its_file(directory: Path, name: str) -> None:
    (directory / "gpu.yml").write_text(RECORDED)
    assert profiles.load(name) == {
        "resources": {"gpu": {"requests": "1", "limits": "1"}, "cpu": {"limits": "5"}},
        "node_selector": [{"key": "gpu", "value": "a100"}],
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Equal", "value": "a100", "effect": "NoSchedule"}],
        "priority_class": "high",
        "replicas": 1,
        "service_type": "ClusterIP",
        profiles.TEMPLATE: {
            "labels": [{"name": "team", "value": "ml"}],
            "service_ports": [{"port": 8080, "target_port": 8080}],
            "bases": [{"kind": "Deployment", "spec": {"template": {"spec": {"dnsPolicy": "ClusterFirst"}}}}],
        },
    }


def test_the_document_with_an_id_is_the_profile_wherever_it_is(directory: Path) -> None:
    (directory / "p.yaml").write_text("note: other\n---\nkind: Service\n---\nid: p\nreplicas: 2\n")
    assert profiles.load("p") == {"replicas": 2, profiles.TEMPLATE: {"bases": [{"kind": "Service"}]}}


def test_each_run_reads_the_file_anew(directory: Path) -> None:
    (directory / "p.yaml").write_text("replicas: 2")
    profiles.load("p")["replicas"] = 3
    assert profiles.load("p") == {"replicas": 2}
    (directory / "p.yaml").write_text("replicas: 4")
    assert profiles.load("p") == {"replicas": 4}


def test_an_unknown_name_is_refused(directory: Path) -> None:
    assert refused("big") == "profile is 'big'; there are none (a file in MODELSERVE_HOME/profiles each)"
    (directory / "small.yaml").write_text("replicas: 1")
    (directory / "gpu.yaml").write_text(RECORDED)
    (directory / "broken.yaml").write_text("a: [")
    assert refused("big") == (
        "profile is 'big'; there are broken (which cannot be read), 1xa100, small (a file in MODELSERVE_HOME/profiles "
        "each)"
    )
    assert profiles.load("small") == {"replicas": 1}, "another's broken file is no reason to refuse this one"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("replica: 2", "the profile p: unknown parameter replica; did you mean replicas?"),
        ("replicas: two", "the profile p: replicas is 'two'; it must be a whole number of at least 1"),
        ("image: a:b", "the profile p: image belongs to a run, not to its task; give it to run()"),
        ("profile: other", "the profile p.yaml names another profile; profiles do not build on each other"),
        ("kind: Deployment", "the profile p.yaml has no document of defaults, only bases with a kind"),
        ("- replicas", "the profile p.yaml has a document that is no mapping: ['replicas']"),
    ],
)
def test_a_file_that_is_wrong(directory: Path, text: str, message: str) -> None:
    (directory / "p.yaml").write_text(text)
    assert refused("p") == message


def test_no_yaml_and_no_text(directory: Path) -> None:
    (directory / "p.yaml").write_text("a: [")
    assert refused("p").startswith("the profile p.yaml cannot be read: while parsing")
    (directory / "p.yaml").write_bytes(b"\xff\xfe\xff")
    assert refused("p").startswith("the profile p.yaml cannot be read: ")
