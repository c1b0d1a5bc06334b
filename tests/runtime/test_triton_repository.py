"""config.pbtxt as text, and as Triton's own schema reads it (tritonclient's model_config_pb2)."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from modelserve.errors import ConfigError
from modelserve.runtime.triton_repository import TritonModel, check_name, config_pbtxt
from modelserve.types import TensorSpec
from tests.environments import environment

REQUIREMENTS = Path(__file__).parents[1] / "clients" / "requirements-tritonclient.txt"
IDS, MASK = (TensorSpec(name, "INT64", (-1, -1)) for name in ("input_ids", "attention_mask"))
TOKENS = TritonModel(
    name="ner",
    max_batch_size=32,
    inputs=(IDS, MASK),
    outputs=(TensorSpec("logits", "FP32", (-1, -1, 5)),),
)
MODELS = (
    TOKENS,
    replace(TOKENS, name="zoë-v1.2", max_batch_size=1, outputs=(TensorSpec("logits", "FP32", (-1, 3)),)),
    replace(TOKENS, inputs=(IDS,), instances="cpu", comment="two\nlines"),
    replace(TOKENS, outputs=(TensorSpec("last_hidden_state", "FP32", (-1, -1, 384)),), instances="cuda"),
)
PARSE = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
for text in json.load(sys.stdin):
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""


def parsed(*texts: str) -> list[dict[str, Any]]:
    """As Triton's schema has them, which refuses what it does not know."""
    python = environment(REQUIREMENTS)
    done = subprocess.run(
        [python, "-c", PARSE], input=json.dumps(texts), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_text() -> None:
    assert config_pbtxt(replace(TOKENS, comment="Made here.")) == (
        "# Made here.\n"
        'name: "ner"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 32\n"
        "input [\n"
        '  { name: "input_ids" data_type: TYPE_INT64 dims: [ -1 ] },\n'
        '  { name: "attention_mask" data_type: TYPE_INT64 dims: [ -1 ] }\n'
        "]\n"
        "output [\n"
        '  { name: "logits" data_type: TYPE_FP32 dims: [ -1, 5 ] }\n'
        "]\n"
        "dynamic_batching { }\n"
    )


@pytest.mark.slow
def test_tritons_schema_reads_it() -> None:
    ner, alone, cpu, gpu = parsed(*map(config_pbtxt, MODELS))
    assert ner == {
        "name": "ner",
        "backend": "onnxruntime",
        "max_batch_size": 32,
        "input": [
            {"name": "input_ids", "data_type": "TYPE_INT64", "dims": ["-1"]},
            {"name": "attention_mask", "data_type": "TYPE_INT64", "dims": ["-1"]},
        ],
        "output": [{"name": "logits", "data_type": "TYPE_FP32", "dims": ["-1", "5"]}],
        "dynamic_batching": {},
    }
    assert (alone["name"], alone["max_batch_size"], "dynamic_batching" in alone) == ("zoë-v1.2", 1, False)
    assert alone["output"][0]["dims"] == ["3"]
    assert [one["name"] for one in cpu["input"]] == ["input_ids"]
    assert [one["instance_group"] for one in (cpu, gpu)] == [
        [{"count": 1, "kind": "KIND_CPU"}],
        [{"count": 1, "kind": "KIND_GPU"}],
    ]
    assert gpu["output"][0] == {"name": "last_hidden_state", "data_type": "TYPE_FP32", "dims": ["-1", "384"]}


@pytest.mark.parametrize("name", ["bert", "BERT-base_v1.2", "zoë", "1"])
def test_a_name(name: str) -> None:
    check_name(name)


@pytest.mark.parametrize("name", ["", "a/b", "..", ".hidden", 'quo"te', "back\\slash", "a b", "line\nbreak", "-x"])
def test_a_name_that_no_directory_has(name: str) -> None:
    with pytest.raises(ConfigError, match=r"(?s)--model_name .* cannot be the name of a directory in a Triton"):
        check_name(name)
