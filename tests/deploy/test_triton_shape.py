"""What `triton` may say: every form that is taken, and one sentence for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from modelserve.deploy import parameters
from modelserve.errors import ConfigError
from tests.deploy.manifests.rows import TRITON

PLAIN = {"image": TRITON, "form": "container"}
CLAIM = {"volume_type": "persistent_volume_claim", "name": "models", "mount_path": "/models"}
MODELS = {"claim_name": "m"}


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ({"model_repository": "s3://models/bert"}, PLAIN | {"model_repository": "s3://models/bert"}),
        ({"modelRepository": "gs://m", "image": None}, PLAIN | {"model_repository": "gs://m"}),
        ({"model_repository": "as://account/models"}, PLAIN | {"model_repository": "as://account/models"}),
        ({"model_repository": "/opt/models", "image": "own:1"}, {
            "image": "own:1", "form": "container", "model_repository": "/opt/models",
        }),
        ({"model_repository": MODELS}, PLAIN | {"model_repository": CLAIM | {"spec": MODELS}}),
        (
            {"model_repository": {"claimName": "m", "subPath": "a/b", "mountPath": "/srv"}},
            PLAIN | {"model_repository": CLAIM | {"mount_path": "/srv", "spec": MODELS | {"sub_path": "a/b"}}},
        ),
        (
            {"model_repository": {"volume_type": "shared_volume", "name": "team"}},
            PLAIN | {"model_repository": CLAIM | {"volume_type": "shared_volume", "name": "team", "spec": {}}},
        ),
        (
            {"model_repository": {"volumeType": "host_path", "spec": {"path": "/srv"}}},
            PLAIN | {"model_repository": CLAIM | {"volume_type": "host_path", "spec": {"path": "/srv"}}},
        ),
        (
            {
                "model_repository": "s3://m",
                "form": "Deployment",
                "replicas": 2,
                "resources": {"gpu": 1},
                "envs": {"A": "1"},
                "secrets": "KEY",
                "args": "--log-verbose=1",
                "node_selector": {"a": "b"},
                "affinity": {"node_affinity": {}},
                "tolerations": [{"operator": "exists"}],
                "runtime_class": "nvidia",
            },
            {
                "image": TRITON,
                "model_repository": "s3://m",
                "form": "deployment",
                "replicas": 2,
                "resources": {"gpu": {"requests": "1"}},
                "envs": [{"name": "A", "value": "1"}],
                "secrets": ["KEY"],
                "args": ["--log-verbose=1"],
                "node_selector": [{"key": "a", "value": "b"}],
                "affinity": {"nodeAffinity": {}},
                "tolerations": [{"operator": "Exists"}],
                "runtime_class": "nvidia",
            },
        ),
    ],
)  # fmt: skip
def test_what_is_read(said: Any, kept: Any) -> None:
    found = parameters.read({"triton": said})
    assert found == {"triton": kept}
    assert parameters.read(found) == found, "what is kept may be given again"
    assert json.loads(json.dumps(found)) == found


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("s3://models", 'triton is \'s3://models\'; it must be a mapping, such as {"model_repository": {"claim_name":'),
        ({"image": "own:1"}, "it must be told where Triton's models are, such as"),
        (
            {"model_repository": "s3://m", "replica": 1},
            "a key of triton is 'replica'; it must be one of affinity, args",
        ),
        (
            {"model_repository": "https://m"},
            "model_repository in triton is 'https://m'; it must be s3://…, gs://…, as:",
        ),
        ({"model_repository": "models"}, "model_repository in triton is 'models'"),
        ({"model_repository": 1}, "model_repository in triton is 1; it must be a mapping"),
        (
            {"model_repository": {"size": "1Gi"}},
            "a key of model_repository in triton is 'size'; it must be one of claim",
        ),
        ({"model_repository": {}}, "it must be a volume that has models on it: a claim that is there (claim_name), or"),
        (
            {"model_repository": {"volume_type": "persistent_volume_claim", "spec": {"size": "1Gi"}}},
            "it must be a volume that has models on it",
        ),
        ({"model_repository": {"volume_type": "empty_dir"}}, "it must be a volume that has models on it"),
        (
            {"model_repository": MODELS | {"mount_path": "/tmp/"}},
            "mount_path in model_repository in triton is '/tmp/'; it must be a place of its own, such as /models",
        ),
        (
            {"model_repository": "s3://m", "form": "pod"},
            "form in triton is 'pod'; it must be one of container, deployme",
        ),
        (
            {"model_repository": "s3://m", "replicas": 2},
            "replicas in triton is 2; it must be left out in form 'container', where it is the run's",
        ),
        ({"model_repository": "s3://m", "resources": {"gpus": 1}}, "a key of resources in triton is 'gpus'"),
        (
            {"model_repository": "s3://m", "args": ["--http-port=1"]},
            "args in triton is '--http-port=1'; it must be without ports: Triton is asked at 8000 and 8001",
        ),
        ({"model_repository": "s3://m", "args": ["--grpc-port", "1"]}, "args in triton is '--grpc-port'"),
    ],
)
def test_what_is_wrong_is_one_sentence(said: Any, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parameters.read({"triton": said})
    assert message in found.value.message
    assert "\n" not in found.value.message
