"""The parameter table: every flag of the seeds and of KServe's runtime is in it, and its page is what it gives."""

import re
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields
from pathlib import Path

import pytest

from modelserve import registry
from modelserve.config import Config
from modelserve.flags import PARAMETERS, Parameter, by_group
from modelserve.runtime.heads import GENERATIVE
from modelserve.vllm_flags import NAMES, OURS

ROOT = Path(__file__).resolve().parent.parent

KSERVE = {
    # kserve.model_server
    "http_port": 8080,
    "grpc_port": 8081,
    "workers": 1,
    "max_threads": 4,
    "max_asyncio_workers": None,
    "enable_grpc": True,
    "enable_docs_url": True,  # false in KServe
    "enable_latency_logging": True,
    "configure_logging": True,
    "log_config_file": None,
    "access_log_format": None,
    "event_loop": "auto",
    "timeout_keep_alive": 65,
    "model_name": "model",
    "predictor_host": None,
    "protocol": "v2",  # v1 in KServe
    "predictor_protocol": "v2",  # v1 in KServe
    "predictor_use_ssl": False,
    "predictor_request_timeout_seconds": 600,
    "predictor_request_retries": 0,
    "enable_predictor_health_check": False,
    "grpc_max_send_message_length": 8388608,
    "grpc_max_receive_message_length": 8388608,
    # huggingfaceserver
    "model_dir": "/mnt/models",
    "model_id": None,
    "model_revision": None,
    "tokenizer_revision": None,
    "max_length": None,
    "max_model_len": None,
    "disable_lower_case": False,
    "disable_special_tokens": False,
    "trust_remote_code": False,
    "tensor_input_names": (),
    "backend": "auto",
    "return_token_type_ids": False,
    "return_offsets_mapping": False,
    "return_probabilities": False,
    "return_raw_logits": False,
    "disable_log_requests": True,  # false in KServe
    "task": None,
    "max_log_len": None,
    "dtype": None,  # auto in KServe
    # the seed of the SDK's task
    "huggingface_task": None,
}

BY_NAME = {name: parameter for parameter in PARAMETERS for name in parameter.names}


@pytest.mark.parametrize("name", KSERVE)
def test_knows_the_flags_of_kserve_and_the_seeds(name: str) -> None:
    assert BY_NAME[name].default == KSERVE[name]
    assert BY_NAME[name].source == "kserve"


@pytest.mark.parametrize(
    ("variable", "name"),
    [
        ("KSERVE_LOGLEVEL", "log_level"),
        ("KSERVE_OPENAI_ROUTE_PREFIX", "openai_route_prefix"),
        ("CE_MERGE", "ce_merge"),
        ("CE_TYPE", "ce_type"),
        ("CE_SOURCE", "ce_source"),
        ("ALLOW_LONG_MAX_MODEL_LEN", "allow_long_max_model_len"),
    ],
)
def test_knows_the_variables_of_kserve(variable: str, name: str) -> None:
    assert BY_NAME[name].env == variable


def test_a_name_is_given_once() -> None:
    names = [name for parameter in PARAMETERS for name in parameter.names]
    variables = [variable for parameter in PARAMETERS for variable in parameter.variables]
    assert len(names) == len(set(names))
    assert len(variables) == len(set(variables))
    assert len(PARAMETERS) == len(fields(Config))


def test_names_of_ours_are_not_taken_for_vllms() -> None:
    assert set(BY_NAME).isdisjoint(NAMES)
    assert set(OURS) <= set(NAMES)
    assert set(OURS.values()) <= set(BY_NAME)


@pytest.mark.parametrize("parameter", PARAMETERS, ids=lambda parameter: parameter.name)
def test_rows_make_sense(parameter: Parameter) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", parameter.name)
    assert re.fullmatch(r"[A-Za-z].*\.", parameter.help), "a sentence"
    assert parameter.type in (str, int, float, bool, tuple)
    assert parameter.default is None or type(parameter.default) is parameter.type
    assert set(parameter.excludes) <= set(BY_NAME)
    if parameter.choices:
        assert parameter.default is None or parameter.default in parameter.choices
        assert {*parameter.choices, *parameter.synonyms} == {
            word.lower() for word in (*parameter.choices, *parameter.synonyms)
        }
        assert set(parameter.synonyms.values()) <= set(parameter.choices)
    if parameter.type in (int, float):
        assert parameter.minimum is not None
        assert parameter.default is None or parameter.minimum <= parameter.default <= (parameter.maximum or 2**63)


def test_tasks_and_backends_are_those_of_the_registry() -> None:
    assert set(BY_NAME["task"].choices) == {*registry.TASKS, *GENERATIVE}
    assert set(BY_NAME["backend"].choices) == {"auto", *registry.BACKENDS, *registry.ENGINES}


def test_a_group_is_in_one_piece() -> None:
    grouped = [parameter for parameters in by_group().values() for parameter in parameters]
    assert grouped == list(PARAMETERS)


def test_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Config().http_port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("given", "prefixes"),
    [("/openai", ("/openai", "")), ("/openai/", ("/openai", "")), ("", ("",)), ("/a/b", ("/a/b", ""))],
)
def test_prefixes_of_openai_routes(given: str, prefixes: tuple[str, ...]) -> None:
    assert Config(openai_route_prefix=given).http_prefixes == prefixes


def test_the_page_is_what_the_table_gives() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "tools" / "parameters.py", "--check"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout) == (0, "parameters.md is what the table gives.\n"), done.stderr
