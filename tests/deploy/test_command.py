"""The server's command line and environment for a run's spec."""

from __future__ import annotations

from typing import Any

import pytest

from modelserve import flags
from modelserve.config import Config
from modelserve.deploy import command, parameters
from modelserve.errors import ConfigError


def args(kind: str = "huggingfaceserve", processes: int = 1, limit_threads: bool = False, **given: Any) -> list[str]:
    path = "hf://org/name" if kind == "huggingfaceserve" else "s3://bucket/model/"
    spec = {"path": path, "model_name": "model", **parameters.read(given)}
    return command.server_args(kind, spec, processes=processes, limit_threads=limit_threads)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, []),
        ({"huggingface_task": "FILL_MASK"}, ["--task=fill_mask"]),
        ({"huggingface_task": "fill_mask"}, ["--task=fill_mask"]),
        ({"backend": "AUTO"}, []),
        ({"backend": "HuggingFace"}, ["--backend=huggingface"]),
        ({"tokenizer_revision": "v2"}, ["--tokenizer_revision=v2"]),
        ({"max_length": 16}, ["--max_length=16"]),
        ({"max_model_len": 16}, ["--max_length=16"]),
        ({"disable_lower_case": True}, ["--disable_lower_case=true"]),
        ({"disable_lower_case": False}, []),
        ({"disable_special_tokens": True}, ["--disable_special_tokens=true"]),
        *(({"dtype": name}, ["--dtype=float32"]) for name in ("FLOAT32", "FLOAT", "float32", "float")),
        *(({"dtype": name}, ["--dtype=float16"]) for name in ("FLOAT16", "HALF", "half")),
        ({"dtype": "BFLOAT16"}, ["--dtype=bfloat16"]),
        *(({"dtype": name}, ["--dtype=auto"]) for name in ("AUTO", "auto")),
        ({"trust_remote_code": True}, ["--trust_remote_code=true"]),
        ({"trust_remote_code": False}, []),
        ({"tensor_input_names": []}, []),
        ({"return_token_type_ids": True}, ["--return_token_type_ids=true"]),
        ({"return_probabilities": True}, ["--return_probabilities=true"]),
        ({"disable_log_requests": False}, ["--disable_log_requests=false"]),
        ({"disable_log_requests": True}, []),
        ({"max_log_len": 10}, ["--max_log_len=10"]),
        ({"max_length": None, "dtype": None}, []),
        ({"model_name": "bert"}, ["--model_name=bert"]),
        ({"path": "hf://org/name:v1"}, ["--model_revision=v1"]),
        ({"args": ["--max_batch_tokens", "4", "--log-format=json"]}, ["--max_batch_tokens=4", "--log_format=json"]),
        ({"max_length": 16, "args": ["--max_length=32"]}, ["--max_length=32"]),
        ({"args": ["--http_port=9000"]}, []),
        ({"resources": {"cpu": "2"}}, []),
    ],
)
def test_words(given: dict[str, Any], words: list[str]) -> None:
    found = args(**given)
    assert "--model_id=org/name" in found
    assert sorted(word for word in found if word != "--model_id=org/name") == sorted(words)
    assert flags.parse(found, {}) != Config()


def test_what_a_target_adds() -> None:
    limited = {"requests": "1", "limits": "2500m"}
    assert "--workers=3" in args(processes=3, replicas=3)
    assert "--threads=3" in args(limit_threads=True, resources={"cpu": limited})
    assert "--threads=1" in args(limit_threads=True, resources={"cpu": "500m"})
    assert not [word for word in args(limit_threads=True, resources={"mem": "1Gi"}) if "threads" in word]


@pytest.mark.parametrize(("kind", "format"), [("sklearnserve", "sklearn"), ("mlflowserve", "mlflow")])
def test_a_kind_says_its_format(kind: str, format: str) -> None:
    assert f"--model_format={format}" in args(kind)


def test_ports() -> None:
    assert command.ports({}) == (0, 0)
    assert command.ports({"args": ["--http_port=9000"]}) == (9000, 0)
    assert command.ports({"grpc_port": 9001}) == (0, 9001)


def test_environment() -> None:
    assert command.environment({"envs": [{"name": "A", "value": "1"}]}) == {"A": "1"}
    assert command.environment({"secrets": ["TOKEN"]}) == {}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--no_such_flag"], "unknown flag --no_such_flag; `modelserve serve --help` lists what there is"),
        (["--max_batch_token=4"], "unknown flag --max_batch_token; did you mean --max_batch_tokens?"),
        (["--model_id=org/other"], "args has --model_id=org/other; say it with path"),
        (["--model-revision=v1"], "args has --model-revision=v1; say it with path (hf://org/name:revision)"),
        (["--workers=2"], "args has --workers=2; say it with replicas"),
        (["--model_name=bert"], "args has --model_name=bert; say it with model_name"),
        (["--model", "org/other"], "unknown flag --model; did you mean --model_id?"),
        (["--max_batch_tokens=none"], "--max_batch_tokens is 'none'; it must be a whole number of at least 1"),
        (["4"], "unexpected argument '4'; a flag starts with --"),
    ],
)
def test_args_are_a_command_line(words: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        parameters.read({"args": words})
    assert found.value.message == message


@pytest.mark.parametrize(
    ("spec", "found"),
    [
        ({}, (0, 0)),
        ({"http_port": 8080}, (8080, 0)),
        ({"http_port": 8080, "args": ["--grpc-port", "8081"]}, (8080, 8081)),
        ({"args": ["--http_port=9000", "--pooling", "cls"]}, (9000, 0)),
    ],
)
def test_a_port_that_is_asked_for_is_not_taken_for_the_default(spec: dict[str, Any], found: tuple[int, int]) -> None:
    assert command.ports(spec) == found


@pytest.mark.parametrize("kind", ["sklearnserve", "mlflowserve"])
@pytest.mark.parametrize(
    ("name", "value"), [("huggingface_task", "fill_mask"), ("dtype", "float16"), ("backend", "huggingface")]
)
def test_what_other_models_do_not_have_is_refused_before_a_server_is_started(kind: str, name: str, value: str) -> None:
    with pytest.raises(ConfigError) as found:
        args(kind, **{name: value})
    assert found.value.message == f"{name} is {value!r}; it is for Hugging Face models, and this is a {kind}"
    assert f"--model_format={kind.removesuffix('serve')}" in args(kind, backend="AUTO", max_length=8)


@pytest.mark.parametrize("kind", ["sklearnserve", "mlflowserve"])
def test_the_hub_has_models_of_one_kind(kind: str) -> None:
    with pytest.raises(ConfigError) as found:
        args(kind, path="hf://org/name")
    assert found.value.message == f"path is 'hf://org/name'; the hub has Hugging Face models, and this is a {kind}"


def test_what_has_no_effect_on_a_model_of_the_kind() -> None:
    given = {"max_model_len": 8, "pooling": "cls", "return_probabilities": True, "disable_lower_case": False}
    spec = parameters.read({**given, "envs": {"A": "1"}, "args": ["--prompt_name=query", "--max_batch_tokens=4"]})
    assert command.without_effect("huggingfaceserve", spec) == []
    assert command.without_effect("sklearnserve", spec) == ["max_length", "pooling", "prompt_name"]
    assert command.without_effect("mlflowserve", spec) == [
        "max_length",
        "pooling",
        "prompt_name",
        "return_probabilities",
    ]
    assert command.without_effect("sklearnserve", parameters.read({"return_probabilities": True})) == []
