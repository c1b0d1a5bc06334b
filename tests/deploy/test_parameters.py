"""What run() and a task take: names, values of the server's own parameters, what is said of what is wrong, and the rule
by which run, task and profile meet. The shapes of a pod's parameters are in test_shapes.py."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from modelserve import flags
from modelserve.deploy import parameters
from modelserve.deploy.parameters import POD
from modelserve.errors import ConfigError
from tests.blocks import ROOT

SEED = """
node_selector volumes resources affinity tolerations envs secrets profile replicas service_type
huggingface_task backend tokenizer_revision max_length disable_lower_case disable_special_tokens dtype trust_remote_code
tensor_input_names return_token_type_ids return_probabilities disable_log_requests max_log_len
"""
"""The rows of its two tables; action is run()'s own."""


def test_the_page_has_the_tables() -> None:
    done = subprocess.run([sys.executable, "tools/sdk.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", SEED.split())
def test_every_row_of_the_seed_is_known(name: str) -> None:
    assert parameters.read({name: None}) == {}
    assert parameters.read({name: None}, on="task") == {}


(TASK,) = (one for one in flags.PARAMETERS if one.name == "task")


def test_the_seeds_tasks() -> None:
    seed = "sequence_classification token_classification fill_mask text_generation text2text_generation text_embedding"
    assert set(TASK.choices) == set(seed.split())


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        *(
            ({"huggingface_task": spelled}, {"huggingface_task": task})
            for task in TASK.choices
            for spelled in (task, task.upper())
        ),
        *(({"backend": spelled}, {"backend": "auto"}) for spelled in ("AUTO", "auto", "Auto")),
        ({"backend": "HUGGINGFACE"}, {"backend": "huggingface"}),
        ({"tokenizer_revision": "main"}, {"tokenizer_revision": "main"}),
        ({"max_length": 16}, {"max_length": 16}),
        ({"max_length": "16"}, {"max_length": 16}),
        ({"max_model_len": 16}, {"max_length": 16}),
        ({"disable_lower_case": True}, {"disable_lower_case": True}),
        ({"disable_special_tokens": False}, {"disable_special_tokens": False}),
        *(
            ({"dtype": spelled}, {"dtype": kept})
            for name, kept in {
                "auto": "auto",
                "float32": "float32",
                "float16": "float16",
                "bfloat16": "bfloat16",
                "float": "float32",
                "half": "float16",
            }.items()
            for spelled in (name, name.upper())
        ),
        ({"trust_remote_code": True}, {"trust_remote_code": True}),
        ({"tensor_input_names": []}, {"tensor_input_names": []}),
        ({"return_token_type_ids": True}, {"return_token_type_ids": True}),
        ({"return_probabilities": True}, {"return_probabilities": True}),
        ({"disable_log_requests": False}, {"disable_log_requests": False}),
        ({"max_log_len": 0}, {"max_log_len": 0}),
        ({"max_batch_tokens": 4}, {"max_batch_tokens": 4}),
        ({"allow_pickle": True}, {"allow_pickle": True}),
    ],
)
def test_accepted(given: dict[str, Any], kept: dict[str, Any]) -> None:
    found = parameters.read(given)
    assert found == kept
    assert json.loads(json.dumps(found)) == found
    assert parameters.read(found) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"huggingface_task": "fillmask"},
            f"huggingface_task is 'fillmask'; it must be one of {', '.join(TASK.choices)}",
        ),
        ({"backend": "onnx"}, "backend is 'onnx'; it must be one of auto, huggingface, vllm, openvino"),
        ({"tokenizer_revision": ""}, "tokenizer_revision is ''; it must be a text that is not empty"),
        ({"tokenizer_revision": 1}, "tokenizer_revision is 1; it must be a text that is not empty"),
        ({"max_length": 0}, "max_length is '0'; it must be a whole number of at least 1"),
        ({"max_length": "long"}, "max_length is 'long'; it must be a whole number of at least 1"),
        ({"disable_lower_case": "maybe"}, "disable_lower_case is 'maybe'; it must be true or false"),
        ({"disable_special_tokens": 2}, "disable_special_tokens is '2'; it must be true or false"),
        ({"dtype": "int8"}, "dtype is 'int8'; it must be one of auto, float16, float32, bfloat16"),
        ({"trust_remote_code": "sure"}, "trust_remote_code is 'sure'; it must be true or false"),
        (
            {"tensor_input_names": ["input_idz"]},
            "tensor_input_names has 'input_idz'; each must be another one of input_ids, attention_mask, "
            "token_type_ids, or input_ids=INPUT__0 where it has another name at the remote predictor",
        ),
        ({"return_token_type_ids": "2"}, "return_token_type_ids is '2'; it must be true or false"),
        ({"return_probabilities": "all"}, "return_probabilities is 'all'; it must be true or false"),
        ({"disable_log_requests": []}, "disable_log_requests is ''; it must be true or false"),
        ({"max_log_len": -1}, "max_log_len is '-1'; it must be a whole number of at least 0"),
        (
            {"return_probabilities": True, "return_raw_logits": True},
            "--return_probabilities and --return_raw_logits exclude each other; give only one of them",
        ),
        (
            {"max_length": 1, "max_model_len": 2},
            "max_length is given twice, as max_length and under another name",
        ),
    ],
)
def test_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parameters.read(given)
    assert found.value.message == message


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("replica", "unknown parameter replica; did you mean replicas?"),
        ("max_lenght", "unknown parameter max_lenght; did you mean max_length?"),
        ("xyzzy", "unknown parameter xyzzy"),
        ("task", "unknown parameter task; it is said with huggingface_task"),
        ("model_id", "unknown parameter model_id; it is said with path"),
        ("workers", "unknown parameter workers; it is said with replicas"),
        ("threads", "unknown parameter threads; it is said with resources (cpu)"),
    ],
)
def test_an_unknown_name_and_the_nearest(name: str, message: str) -> None:
    for on in ("run", "task"):
        with pytest.raises(ConfigError) as found:
            parameters.read({name: 2}, on=on)
        assert found.value.message == message


@pytest.mark.parametrize("name", ["path", "model_name", "image", "args"])
def test_what_belongs_to_a_run(name: str) -> None:
    with pytest.raises(ConfigError) as found:
        parameters.read({name: "a"}, on="task")
    assert found.value.message == f"{name} belongs to a run, not to its task; give it to run()"


def test_run_over_task_over_profile_each_taken_whole() -> None:
    profile = {"resources": {"cpu": {"requests": "1"}}, "replicas": 2, "envs": [{"name": "A", "value": "1"}]}
    task = {"resources": {"mem": {"requests": "1Gi"}}, "max_length": 16}
    run = {"max_length": 32}
    assert parameters.merge(run, task, profile) == {
        "resources": {"mem": {"requests": "1Gi"}},
        "replicas": 2,
        "envs": [{"name": "A", "value": "1"}],
        "max_length": 32,
    }


def test_a_parameter_has_one_name_so_that_a_run_wins_over_its_task() -> None:
    merged = parameters.merge(parameters.read({"max_length": 8}), parameters.read({"max_model_len": 16}), {})
    assert parameters.server_config(merged)["max_length"] == 8


def test_what_only_a_cluster_knows() -> None:
    given = {"node_selector": {"a": "b"}, "replicas": 2, "service_type": "NodePort", "image": "a:b", "max_length": 1}
    assert parameters.kept_only(parameters.read(given)) == ["node_selector", "service_type", "image"]
    volumes = [
        {
            "volume_type": kind,
            "name": kind[:5],
            "mount_path": "/v",
            "spec": {"path": "/"} if kind == "host_path" else {},
        }
        for kind in ("host_path", "empty_dir", "empty_dir", "ephemeral")
    ]
    given = {"resources": {"cpu": "1", "mem": "2Gi", "gpu": "1", "disk": "1Gi"}, "volumes": volumes}
    assert parameters.kept_only(parameters.read(given)) == [
        "resources (gpu, disk, mem without limits)",
        "volumes (empty_dir, ephemeral)",
    ]
    given = {"resources": {"cpu": "1", "mem": {"limits": "2Gi"}}, "volumes": volumes[:1]}
    assert parameters.kept_only(parameters.read(given)) == []
    assert {row.name for row in POD if not row.here} == {
        "node_selector",
        "affinity",
        "tolerations",
        "kubeconfig",
        "context",
        "service_type",
        "runtime_class",
        "priority_class",
        "image",
        "namespace",
        "flavor",
        "scaling",
        "disruption_budget",
        "model_cache",
        "triton",
        "startup_timeout",
        "labels",
        "annotations",
        "image_pull_policy",
        "image_pull_secrets",
    }
