"""Bases for Kustomize: what is in the files, and what Kustomize itself (kubectl's) makes of them and of an overlay."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelserve.deploy.manifests import kustomize
from tests.blocks import ROOT
from tests.deploy.manifests import rules, schemas, test_kserve
from tests.deploy.manifests.made import Manifest, behind_of, container_of, made, of_kind, pod_of
from tests.environments import environment

EXAMPLE = ROOT / "examples" / "kubernetes" / "kustomize"
DIGEST = "sha256:" + "0123456789abcdef" * 4
NAME = "bert-0123456789ab"
VOLUME = {"volume_type": "persistent_volume_claim", "name": "data", "mount_path": "/data", "spec": {"size": "1Gi"}}
GIVEN: dict[str, dict[str, Any]] = {
    "little": {},
    "much": {
        "resources": {"cpu": 1, "mem": "2Gi"},
        "scaling": {"max_replicas": 3, "target": 80},
        "disruption_budget": 1,
        "model_cache": "5Gi",
        "volumes": [VOLUME],
        "service_name": "bert",
        "secrets": ["TOKEN", "secret://own", "secret://other/KEY"],
        "values": {"TOKEN": "s3cret"},
        "files": {"chat_template.jinja": "{{ 'x' }}\n"},
        "envs": [{"name": "A", "value": "1e3"}, {"name": "B", "value": "yes"}],
        "labels": {"cost": "1"},
        "namespace": "models",
        "image": f"registry.example:5000/a/own:1.2@{DIGEST}",
    },
    "triton": {
        "triton": {
            "model_repository": {"claim_name": "there"},
            "form": "deployment",
            "secrets": ["KEY", "secret://other/KEY2"],
        },
        "triton_values": {"KEY": "s3cret"},
        "secrets": ["TOKEN"],
        "values": {"TOKEN": "s3cret"},
    },
    "kserve": {
        "flavor": "kserve",
        "resources": {"cpu": 1, "mem": "2Gi"},
        "model_cache": "5Gi",
        "volumes": [VOLUME],
        "secrets": ["TOKEN", "secret://other/KEY"],
        "values": {"TOKEN": "s3cret"},
        "files": {"chat_template.jinja": "{{ 'x' }}\n"},
        "disruption_budget": 1,
    },
}
Build = Callable[[Path], list[Manifest]]


def read(files: dict[str, str]) -> tuple[Manifest, list[Manifest]]:
    """The kustomization, and its resources in their order."""
    kustomization = yaml.safe_load(files[kustomize.KUSTOMIZATION])
    return kustomization, [yaml.safe_load(files[name]) for name in kustomization["resources"]]


def write(directory: Path, files: dict[str, str]) -> Path:
    directory.mkdir()
    for name, text in files.items():
        (directory / name).write_text(text)
    return directory


def by_name(manifests: list[Manifest]) -> dict[tuple[str, str], Manifest]:
    found = {(one["kind"], one["metadata"]["name"]): one for one in manifests}
    assert len(found) == len(manifests)
    return found


@pytest.mark.parametrize("given", GIVEN.values(), ids=list(GIVEN))
def test_each_object_is_a_file_in_the_order_in_which_it_is_applied(given: dict[str, Any]) -> None:
    files = kustomize.files(made(**given))
    kustomization, resources = read(files)
    assert resources == made(**given)
    assert files == kustomize.files(made(**given)), "the same each time"
    assert set(files) == {
        kustomize.KUSTOMIZATION,
        *kustomization["resources"],
        *kustomization.get("configurations", ()),
    }
    assert kustomize.written(files[kustomize.KUSTOMIZATION]) == set(files)
    assert not kustomization.keys() & {"namespace", "labels", "commonLabels", "secretGenerator"}, "an overlay's"


def test_files_are_called_after_kinds_and_where_there_are_several_after_the_object() -> None:
    files = kustomize.files(made(**GIVEN["much"]))
    assert list(files) == [
        "kustomization.yaml",
        "secret.yaml",
        "config-map.yaml",
        "persistent-volume-claim-data.yaml",
        "persistent-volume-claim-modelserve-cache.yaml",
        "deployment.yaml",
        "service.yaml",
        "horizontal-pod-autoscaler.yaml",
        "pod-disruption-budget.yaml",
        "service-bert.yaml",
    ]


def test_files_of_the_triton_behind_it_say_so() -> None:
    files = kustomize.files(made(**GIVEN["triton"]))
    assert list(files) == [
        "kustomization.yaml",
        "secret.yaml",
        "secret-triton.yaml",
        "deployment-triton.yaml",
        "service-triton.yaml",
        "deployment.yaml",
        "service.yaml",
        "names.yaml",
    ]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("own", ("own", "", "")),
        ("own:1", ("own", "1", "")),
        ("registry.example:5000/a/own", ("registry.example:5000/a/own", "", "")),
        ("registry.example:5000/a/own:1.2", ("registry.example:5000/a/own", "1.2", "")),
        (f"a/own@{DIGEST}", ("a/own", "", DIGEST)),
        (f"a/own:1@{DIGEST}", ("a/own", "1", DIGEST)),
    ],
)
def test_an_image_is_set_by_its_parts(text: str, parts: tuple[str, str, str]) -> None:
    assert kustomize.image(text) == parts
    kustomization, resources = read(kustomize.files(made(image=text)))
    name, tag, digest = parts
    said = {"name": name, "newName": name} | ({"newTag": tag} if tag else {}) | ({"digest": digest} if digest else {})
    assert kustomization["images"] == [said]
    assert container_of(resources)["image"] == text


def test_images_of_every_container_are_there_once() -> None:
    boxes = [{"name": "proxy", "image": "proxy:1"}, {"name": "other", "image": "modelserve:test"}]
    template = {"bases": [{"kind": "Deployment", "spec": {"template": {"spec": {"containers": boxes}}}}]}
    kustomization, _ = read(kustomize.files(made(template=template)))
    assert [(one["name"], one["newTag"]) for one in kustomization["images"]] == [("modelserve", "test"), ("proxy", "1")]


def test_secrets_that_the_pods_wait_for_are_named_and_no_value_is() -> None:
    manifests = [one for one in made(**GIVEN["much"]) if one["kind"] != "Secret"]
    text = kustomize.files(manifests)[kustomize.KUSTOMIZATION]
    expected = [line for line in text.splitlines() if line.startswith("#   Secret ")]
    assert expected == [f"#   Secret {NAME}, with TOKEN", "#   Secret other, with KEY", "#   Secret own"]
    whole = kustomize.files(made(**GIVEN["much"]))
    assert f"Secret {NAME}" not in whole[kustomize.KUSTOMIZATION]
    assert "czNjcmV0" in whole["secret.yaml"]
    assert "Secret" not in kustomize.files(made())[kustomize.KUSTOMIZATION]


@pytest.mark.parametrize("text", ["", "resources: [a.yaml]\n", f"# mine\n{kustomize.MARK}\nresources: [a.yaml]\n"])
def test_what_others_wrote_is_not_ours(text: str) -> None:
    assert kustomize.written(text) == set()


@pytest.mark.parametrize("text", ["", "[", "- a", "resources: a"])
def test_of_a_spoiled_one_only_itself_is_ours(text: str) -> None:
    assert kustomize.written(f"{kustomize.MARK}\n{text}") == {kustomize.KUSTOMIZATION}


@pytest.fixture(scope="module")
def build() -> Build:
    """`kubectl kustomize`, from the wheel that has Kubernetes' own program."""
    program = environment(Path(__file__).parent / "requirements-kustomize.txt").parent / "kubectl"

    def build(directory: Path) -> list[Manifest]:
        done = subprocess.run(
            [program, "kustomize", directory], capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return list(yaml.safe_load_all(done.stdout))

    return build


@pytest.mark.slow
@pytest.mark.parametrize("given", GIVEN.values(), ids=list(GIVEN))
def test_what_kustomize_builds_is_the_run(build: Build, tmp_path: Path, given: dict[str, Any]) -> None:
    manifests = made(**given)
    assert by_name(build(write(tmp_path / "base", kustomize.files(manifests)))) == by_name(manifests)


@pytest.mark.slow
@pytest.mark.parametrize("given", GIVEN.values(), ids=list(GIVEN))
def test_names_that_an_overlay_changes_still_find_each_other(
    build: Build, tmp_path: Path, given: dict[str, Any]
) -> None:
    manifests = made(**given)
    write(tmp_path / "base", kustomize.files(manifests))
    image = kustomize.image(given.get("image", "modelserve:test")).name
    overlay = {
        "resources": ["../base"],
        "namePrefix": "my-",
        "namespace": "elsewhere",
        "images": [{"name": image, "newName": "registry.example/other", "newTag": "2"}],
    }
    built = build(write(tmp_path / "overlay", {kustomize.KUSTOMIZATION: yaml.safe_dump(overlay)}))
    assert {one["metadata"]["name"] for one in built} == {f"my-{one['metadata']['name']}" for one in manifests}
    assert {one["metadata"]["namespace"] for one in built} == {"elsewhere"}
    existing = {("Secret", "own"), ("Secret", "other"), ("PersistentVolumeClaim", "there")}
    if "flavor" in given:
        assert test_kserve.faults(built) == []
        runtime = of_kind(built, "ServingRuntime")
        assert runtime["spec"]["containers"][0]["image"] == "registry.example/other:2"
        predictor = of_kind(built, "InferenceService")["spec"]["predictor"]
        assert predictor["model"]["runtime"] == runtime["metadata"]["name"]
        there = existing | set(by_name(built))
        assert list(rules.pod_faults(test_kserve.joined(built), there)) == []
    else:
        assert rules.broken(built, existing) == []
        assert container_of(built)["image"] == "registry.example/other:2"
    if "triton" in given:
        service = of_kind(behind_of(built), "Service")["metadata"]["name"]
        assert {"name": "TRITON_HOST", "value": service} in container_of(built)["env"]


@pytest.mark.slow
def test_the_base_and_the_overlay_of_the_examples(build: Build) -> None:
    base, overlay = build(EXAMPLE / "base"), build(EXAMPLE / "overlay")
    for manifests in (base, overlay):
        assert rules.broken(manifests) == []
        faults = [fault for version in schemas.VERSIONS for one in manifests for fault in schemas.faults(one, version)]
        assert faults == []
    before, after = container_of(base), container_of(overlay)
    assert after["image"] == "registry.example/modelserve:0.1.0-cuda"
    assert set(after["args"]) ^ set(before["args"]) == {
        "--model_id=google-bert/bert-base-uncased",
        "--model_id=google-bert/bert-large-uncased",
    }
    assert after["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert after["env"] == before["env"]
    assert of_kind(overlay, "Deployment")["spec"]["replicas"] == 2
    assert "affinity" in pod_of(base)
    assert "affinity" not in pod_of(overlay)
    claim = of_kind(overlay, "PersistentVolumeClaim")["spec"]
    assert (claim["accessModes"], claim["resources"]["requests"]["storage"]) == (["ReadWriteMany"], "20Gi")
    assert of_kind(overlay, "Service")["spec"]["selector"]["overlay"] == "large"
    assert {one["metadata"]["namespace"] for one in overlay} == {"models"}
