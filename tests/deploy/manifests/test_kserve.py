"""The flavour for KServe, against the schemas of KServe's own kinds; and the seed's examples, as files.

python -m tests.deploy.manifests.test_kserve writes the files of examples/kubernetes again.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from modelserve.deploy.kinds import KINDS
from modelserve.deploy.manifests import kserve, pod
from modelserve.deploy.manifests.text import as_yaml
from modelserve.deploy.record import lasting_id
from modelserve.errors import ConfigError
from tests.blocks import ROOT
from tests.deploy.manifests import rules, schemas
from tests.deploy.manifests.made import Manifest, container_of, made, of_kind, pod_of

FOLDER = ROOT / "examples" / "kubernetes"
IMAGE = "modelserve:0.1.0"
FILES = {
    "ServingRuntime": "serving_runtime",
    "ClusterServingRuntime": "serving_runtime",
    "InferenceService": "inference_service",
}
EXAMPLES: dict[str, dict[str, Any]] = {
    "fill_mask": {"name": "bert", "path": "hf://google-bert/bert-base-uncased", "huggingface_task": "fill_mask"},
    "token_classification": {"name": "ner", "path": "hf://dslim/bert-base-NER"},
    "text_classification": {
        "name": "distilbert",
        "path": "hf://distilbert/distilbert-base-uncased-finetuned-sst-2-english",
        "return_probabilities": True,
    },
}
"""The seed's three."""
BEHIND: dict[str, dict[str, Any]] = {
    "container": {
        "model_repository": {"claim_name": "triton-models"},
        "resources": {"cpu": {"requests": "2"}, "mem": {"requests": "2Gi", "limits": "4Gi"}},
    },
    "deployment": {
        "model_repository": "s3://models/triton",
        "form": "deployment",
        "replicas": 2,
        "secrets": ["secret://s3"],
        "resources": {"gpu": "1", "mem": {"requests": "8Gi", "limits": "16Gi"}},
        "node_selector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    },
}
"""A Triton in each of its forms."""
SIZE = {"resources": {"cpu": {"requests": "1"}, "mem": {"requests": "2Gi", "limits": "4Gi"}}}


@cache
def validator(kind: str) -> Draft202012Validator:
    file = Path(__file__).parent / "crds" / f"{FILES[kind]}.json"
    return Draft202012Validator(json.loads(file.read_text(encoding="utf-8")))


def faults(manifests: list[Manifest]) -> list[str]:
    """Of KServe's kinds by KServe's schemas, of others by Kubernetes'; and of the pod that KServe makes of the two."""
    found = []
    for one in manifests:
        if one["kind"] in FILES:
            found += [f"{list(error.path)}: {error.message}" for error in validator(one["kind"]).iter_errors(one)]
        else:
            found += schemas.faults(one, "1.37")
    return found


def joined(manifests: list[Manifest]) -> Manifest:
    """What KServe makes of a runtime and a service: containers and volumes joined by name, arguments one behind the
    other (its mergeRuntimeContainers)."""
    runtime, predictor = of_kind(manifests, "ServingRuntime")["spec"], of_kind(manifests, "InferenceService")["spec"]
    predictor = dict(predictor["predictor"])
    model = predictor.pop("model")
    (box,) = runtime["containers"]
    both = {key: [*box.get(key, ()), *model.get(key, ())] for key in ("args", "env", "volumeMounts", "envFrom")}
    return {
        "terminationGracePeriodSeconds": predictor["terminationGracePeriodSeconds"],
        "securityContext": predictor["securityContext"],
        "containers": [{**box, "resources": model.get("resources", {}), **both}],
        "volumes": [*runtime["volumes"], *predictor.get("volumes", ())],
    }


VOLUME = {"volume_type": "persistent_volume_claim", "name": "data", "mount_path": "/data", "spec": {"size": "1Gi"}}
GIVEN: list[dict[str, Any]] = [
    {},
    {
        "replicas": 3,
        "node_selector": {"gpu": "a100"},
        "tolerations": [{"operator": "Exists"}],
        "runtime_class": "nvidia",
    },
    {"resources": {"cpu": "1", "gpu": "1"}, "scaling": {"max_replicas": 4}, "disruption_budget": 1},
    {"model_cache": "20Gi", "volumes": [VOLUME], "namespace": "models", "affinity": {"podAffinity": {}}},
    {"values": {"TOKEN": "x"}, "secrets": ["secret://hf"], "envs": {"A": "1"}, "files": {"a.jinja": "{{ x }}"}},
    {"volumes": [{**VOLUME, "mount_path": "/cache"}], "image_pull_secrets": "r", "priority_class": "high"},
    {"kind": "sklearnserve", "path": "s3://b/iris.skops", "labels": {"team": "ml"}, "http_port": 9000},
]


@pytest.mark.parametrize("given", GIVEN, ids=[f"{'+'.join(one)}-{i}" for i, one in enumerate(GIVEN)])
def test_it_is_what_kserve_takes(given: dict[str, Any]) -> None:
    found = made(flavor="kserve", **given)
    assert faults(found) == []
    there = {(one["kind"], one["metadata"]["name"]) for one in found} | {("Secret", "hf")}
    assert list(rules.pod_faults(joined(found), there)) == []
    assert rules.broken(found) == []


def test_the_schemas_see() -> None:
    found = made(flavor="kserve")
    of_kind(found, "InferenceService")["spec"]["predictor"]["model"]["argz"] = []
    of_kind(found, "ServingRuntime")["spec"]["containers"][0]["probe"] = {}
    assert len(faults(found)) == 2


def test_the_pod_is_the_one_that_a_deployment_has() -> None:
    given: dict[str, Any] = {"resources": {"cpu": "2"}, "envs": {"A": "1"}, "max_length": 64}
    here, there = container_of(made(**given)), joined(made(flavor="kserve", **given))["containers"][0]
    differ = {key for key in here | there if here.get(key) != there.get(key)}
    assert differ == {"name", "ports", "envFrom"}, "KServe names the container, and sees one port"
    assert there["envFrom"] == []
    assert (there["name"], there["ports"]) == ("kserve-container", [{"containerPort": 8080, "protocol": "TCP"}])
    keys = ("securityContext", "terminationGracePeriodSeconds")
    deployed, joint = pod_of(made(**given)), joined(made(flavor="kserve", **given))
    assert {key: deployed[key] for key in keys} == {key: joint[key] for key in keys}


def test_the_service_names_its_runtime_and_is_scaled_by_kserve() -> None:
    found = made(flavor="kserve", scaling={"min_replicas": 2, "max_replicas": 4, "target": {"mem": 70}}, **SIZE)
    assert [one["kind"] for one in found] == ["ServingRuntime", "InferenceService"]
    predictor = of_kind(found, "InferenceService")["spec"]["predictor"]
    assert predictor["model"]["runtime"] == of_kind(found, "ServingRuntime")["metadata"]["name"]
    assert [predictor[key] for key in ("minReplicas", "maxReplicas", "scaleMetric", "scaleTarget")] == [
        2,
        4,
        "memory",
        70,
    ]
    assert predictor["labels"]["modelserve/run"]
    with_file = of_kind(made(flavor="kserve", files={"a": "1"}), "InferenceService")["spec"]["predictor"]
    assert with_file["annotations"].keys() - predictor["annotations"].keys() == {"modelserve/files"}
    annotations = of_kind(found, "InferenceService")["metadata"]["annotations"]
    assert annotations["serving.kserve.io/deploymentMode"] == "RawDeployment"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"service_type": "NodePort"}, "service_type is 'NodePort'; KServe makes the services of flavor 'kserve'"),
        ({"service_name": "a"}, "service_name is 'a'; KServe makes the services of flavor 'kserve'"),
        (
            {"scaling": {"max_replicas": 2, "target": {"queue": "1"}}},
            "flavor 'kserve' scales by cpu or mem, one of them",
        ),
        ({"scaling": {"max_replicas": 2}}, "resources requests none"),
        (
            {"triton": {"model_repository": "s3://m"}},
            "triton is for flavor 'deployment'; with KServe write an Inference",
        ),
    ],
)
def test_what_kserve_says_otherwise(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError) as found:
        made(flavor="kserve", **given)
    assert said in found.value.message


def test_the_cluster_runtime_is_for_every_kind_and_never_chosen_by_itself() -> None:
    found = kserve.cluster_runtime(IMAGE)
    assert faults([found]) == []
    spec = found["spec"]
    assert [one["name"] for one in spec["supportedModelFormats"]] == ["huggingface", "sklearn", "mlflow"]
    assert len(spec["supportedModelFormats"]) == len(KINDS)
    assert not any(one["autoSelect"] for one in spec["supportedModelFormats"])
    (box,) = spec["containers"]
    assert box["args"] == ["--model_name={{.Name}}"]
    joint = {**spec, "terminationGracePeriodSeconds": 45, "securityContext": pod.pod_security()}
    assert list(rules.pod_faults(joint, set())) == []


def files() -> dict[str, str]:
    """File of examples/kubernetes -> its text."""
    found = {"kserve/cluster_serving_runtime.yaml": as_yaml([kserve.cluster_runtime(IMAGE)])}
    for name, given in EXAMPLES.items():
        own = {**given, **SIZE, "id": lasting_id("examples", name), "project": "examples", "image": IMAGE}
        found[f"{name}.yaml"] = as_yaml(made(**own, model_cache="5Gi"))
        found[f"kserve/{name}.yaml"] = as_yaml(made(**own, flavor="kserve"))
    for form, triton in BEHIND.items():
        own = {**EXAMPLES["text_classification"], "id": lasting_id("examples", f"triton-{form}"), "project": "examples"}
        own["model_name"] = "distilbert"
        size = {"resources": {"cpu": {"requests": "1"}, "mem": {"requests": "1Gi", "limits": "2Gi"}}}
        found[f"triton/{form}.yaml"] = as_yaml(made(**own, **size, image=IMAGE, triton=triton))
    return found


@pytest.mark.parametrize("name", files())
def test_an_example_is_what_is_rendered(name: str) -> None:
    text = (FOLDER / name).read_text(encoding="utf-8")
    assert text == files()[name], "run: python -m tests.deploy.manifests.test_kserve"
    assert faults(list(yaml.safe_load_all(text))) == []


def test_there_are_no_others() -> None:
    found = {str(path.relative_to(FOLDER)) for path in FOLDER.rglob("*.yaml")}
    assert {name for name in found if not name.startswith("kustomize/")} == set(files())


if __name__ == "__main__":
    for name, text in files().items():
        (FOLDER / name).parent.mkdir(parents=True, exist_ok=True)
        (FOLDER / name).write_text(text, encoding="utf-8")
