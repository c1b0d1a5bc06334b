"""Config from a command line, an environment and keywords, and back."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from modelserve.config import Config
from modelserve.errors import ConfigError
from modelserve.flags import (
    PARAMETERS,
    Parameter,
    from_keywords,
    parse,
    to_args,
    unknown_variables,
    without_parameters,
)
from modelserve.vllm_flags import NAMES, OURS, SHORT, SWITCHES

VLLM = "; it is vLLM's: say it in"


def name(parameter: Parameter) -> str:
    return parameter.name


def others(parameter: Parameter) -> list[tuple[str, Any]]:
    """Values that are not the default: (as text, as Config holds it)."""
    if parameter.choices:
        return [(choice, choice) for choice in parameter.choices if choice != parameter.default]
    if parameter.type is bool:
        return [(str(value).lower(), value) for value in (True, False) if value is not parameter.default]
    if parameter.type is int:
        return [("7", 7), (f"{parameter.minimum:.0f}", parameter.minimum)]
    if parameter.type is float:
        return [("7", 7.0), ("0.25", 0.25), ("1e3", 1000.0)]
    if parameter.type is tuple:
        return [("input_ids=a", ("input_ids=a",)), ("input_ids,attention_mask", ("input_ids", "attention_mask"))]
    if parameter.name == "predictor_host":
        return [(text, text) for text in ("triton:8000", "model.ns.svc", "[::1]:8000", "$(HOST):8000")]
    return [(text, text) for text in ("x", " a b ", "--dashes", "a=b", "Großes\n'Ü'", "-1")]


VALUES = [
    pytest.param(parameter, text, value, id=f"{parameter.name}={text!a}")
    for parameter in PARAMETERS
    for text, value in others(parameter)
    if value != parameter.default
]


def refusal(argv: list[str], environ: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(argv, environ or {})
    return caught.value.message


def test_nothing_said_is_the_default() -> None:
    assert parse([], {}) == Config()
    assert from_keywords() == Config()
    assert to_args(Config()) == []


@pytest.mark.parametrize(("parameter", "text", "value"), VALUES)
def test_every_spelling_is_the_same_value(parameter: Parameter, text: str, value: Any) -> None:
    wanted = Config(**{parameter.name: value})
    for flag in parameter.names:
        kebab = flag.replace("_", "-")
        assert parse([f"--{flag}={text}"], {}) == wanted
        assert parse([f"--{kebab}={text}"], {}) == wanted
        if not text.startswith("--"):
            assert parse([f"--{flag}", text], {}) == wanted
            assert parse([f"--{kebab}", text], {}) == wanted
        assert parse([], {f"MODELSERVE_{flag.upper()}": text}) == wanted
        assert from_keywords(**{flag: value}) == wanted
        assert from_keywords(**{flag: text}) == wanted
    if parameter.env:
        assert parse([], {parameter.env: text}) == wanted


@pytest.mark.parametrize(("parameter", "text", "value"), VALUES)
def test_there_and_back(parameter: Parameter, text: str, value: Any) -> None:
    config = Config(**{parameter.name: value})
    args = to_args(config)
    assert len(args) == 1
    assert args[0].startswith(f"--{parameter.name}=")
    back = parse(args, {})
    assert back == config
    assert type(getattr(back, parameter.name)) is type(value)


def test_there_and_back_all_at_once() -> None:
    values = {parameter.name: others(parameter)[0][1] for parameter in PARAMETERS if not parameter.excludes}
    config = Config(**values)
    assert len(to_args(config)) == len(values)
    assert parse(to_args(config), {}) == config
    assert from_keywords(**dataclasses.asdict(config)) == config


@pytest.mark.parametrize(
    "host", ["http://t:8000", "t:8000/v2", "t:0", "t:99999", "::1", "a b", "a:b", "u@t:1", "x..z:80", "*:80", "a<b:80"]
)
def test_the_predictors_host_is_host_and_port(host: str) -> None:
    assert refusal([f"--predictor_host={host}"]) == (
        f"predictor_host is {host!r}; it must be host:port, without a scheme (--predictor_use_ssl is for TLS) and "
        "without a path"
    )


@pytest.mark.parametrize("backend", ["vllm", "openvino"])
def test_a_predictor_and_a_backend_of_here(backend: str) -> None:
    assert refusal([f"--backend={backend}", "--predictor_host=x:1"]) == (
        f"--backend {backend} runs the model here, and --predictor_host elsewhere; give only one of them"
    )


@pytest.mark.parametrize("names", ["input_idz", "input_ids,input_ids", "input_ids=", "attention_mask=a"])
def test_what_is_sent_is_known(names: str) -> None:
    assert refusal([f"--tensor_input_names={names}"]).startswith("tensor_input_names ")


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["--tensor-parallel-size", "2"], "--tensor-parallel-size 2"),
        (["--tensor_parallel_size=2"], "--tensor_parallel_size=2"),
        (["--no-enforce-eager", "--http_port=1"], "--no-enforce-eager"),
        (["--kv-transfer-config.kv_role", "x"], "--kv-transfer-config.kv_role x"),
        (["-tp", "2", "-O3"], "-tp 2 -O3"),
        (["--lora-modules", "a=/a", "b=/b", "--threads", "1"], "--lora-modules a=/a b=/b"),
        (["--kv-transfer-config", '{"kv_role": "x"}'], """--kv-transfer-config '{"kv_role": "x"}'"""),
        (["--vllm_args", "--block_size 16"], "--block_size 16"),
        (["--enforce_eager", "--vllm_args=--block_size 16", "--seed=1"], "--block_size 16 --enforce_eager --seed=1"),
        (["--backend", "vllm", "--of-a-newer-vllm", "x"], "--of-a-newer-vllm x"),
        (["--of-a-newer-vllm", "--backend=VLLM"], "--of-a-newer-vllm"),
    ],
)
def test_what_is_vllms_is_kept_for_it(argv: list[str], kept: str) -> None:
    config = parse(argv, {})
    assert config.vllm_args == kept
    assert parse(to_args(config), {}) == config


def test_every_flag_of_vllm_is_known() -> None:
    for flag in (*(f"--{name}" for name in NAMES if name not in OURS), *SHORT):
        assert parse([flag], {}).vllm_args == flag
    assert set(NAMES) > SWITCHES


def test_vllms_own_words_lead_to_ours() -> None:
    assert refusal(["--model", "bert"]).endswith("; did you mean --model_id?")
    assert refusal(["--port=9000"]).endswith("; did you mean --http_port?")
    assert refusal([], {"MODELSERVE_MODEL": "bert"}).endswith("; did you mean MODELSERVE_MODEL_ID?")


@pytest.mark.parametrize("word", ["y", "YES", "t", "true", "True", "on", "1"])
def test_words_for_true(word: str) -> None:
    assert parse(["--return_probabilities", word], {}).return_probabilities is True
    assert parse([f"--normalize={word}"], {}).normalize is True
    assert parse([], {"CE_MERGE": word}).ce_merge is True


@pytest.mark.parametrize("word", ["n", "NO", "f", "false", "False", "off", "0"])
def test_words_for_false(word: str) -> None:
    assert parse(["--enable_grpc", word], {}).enable_grpc is False
    assert parse([f"--normalize={word}"], {}).normalize is False
    assert parse([], {"MODELSERVE_DISABLE_LOG_REQUESTS": word}).disable_log_requests is False


def test_a_flag_alone_is_true() -> None:
    config = parse(["--return-probabilities", "--normalize", "--enable_grpc", "--task", "fill_mask"], {})
    assert (config.return_probabilities, config.normalize, config.enable_grpc) == (True, True, True)


@pytest.mark.parametrize(
    ("given", "held"), [("FLOAT16", "float16"), ("half", "float16"), ("Float", "float32"), ("AUTO", "auto")]
)
def test_dtype(given: str, held: str) -> None:
    assert parse(["--dtype", given], {}).dtype == held


def test_names_of_the_log_level() -> None:
    assert parse([], {"KSERVE_LOGLEVEL": "WARN"}).log_level == "warning"


def test_the_last_of_a_repeated_flag_counts() -> None:
    assert parse(["--max_length=3", "--max-model-len", "4"], {}).max_length == 4
    assert parse(["--max-model-len", "4", "--max_length=3"], {}).max_length == 3


def test_what_wins() -> None:
    foreign = {"KSERVE_OPENAI_ROUTE_PREFIX": "/foreign"}
    ours = foreign | {"MODELSERVE_OPENAI_ROUTE_PREFIX": "/ours"}
    assert parse([], foreign).openai_route_prefix == "/foreign"
    assert parse([], ours).openai_route_prefix == "/ours"
    assert parse(["--openai_route_prefix=/line"], ours).openai_route_prefix == "/line"


def test_what_loses_is_not_read() -> None:
    assert parse(["--http_port=1"], {"MODELSERVE_HTTP_PORT": "x"}).http_port == 1


def test_an_empty_variable_is_not_set_unless_empty_means_something() -> None:
    assert parse([], {"MODELSERVE_MODEL_ID": "", "MODELSERVE_HTTP_PORT": ""}) == Config()
    assert parse([], {"KSERVE_OPENAI_ROUTE_PREFIX": ""}).openai_route_prefix == ""
    assert parse(["--openai_route_prefix="], {}).openai_route_prefix == ""


@pytest.mark.parametrize(
    ("argv", "environ", "sentence"),
    [
        (["--http_port", "abc"], {}, "--http_port is 'abc'; it must be a whole number from 0 to 65535"),
        (["--http-port=65536"], {}, "--http-port is '65536'; it must be a whole number from 0 to 65535"),
        (["--max_length=1.5"], {}, "--max_length is '1.5'; it must be a whole number of at least 1"),
        (["--max_model_len", "-1"], {}, "--max_model_len is '-1'; it must be a whole number of at least 1"),
        (["--threads", "9" * 400], {}, f"--threads is '{'9' * 400}'; it must be a whole number of at least 1"),
        (["--request_timeout=0"], {}, "--request_timeout is '0'; it must be a number of at least 0.001"),
        (["--request_timeout=nan"], {}, "--request_timeout is 'nan'; it must be a number of at least 0.001"),
        (["--request_timeout=inf"], {}, "--request_timeout is 'inf'; it must be a number of at least 0.001"),
        (["--enable_grpc", "maybe"], {}, "--enable_grpc is 'maybe'; it must be true or false"),
        (["--normalize="], {}, "--normalize is ''; it must be true or false"),
        (["--backend", "onnx"], {}, "--backend is 'onnx'; it must be one of auto, huggingface, vllm, openvino"),
        (["--model_id="], {}, "--model_id is ''; it must be a text that is not empty"),
        (["--model_id"], {}, "--model_id needs a value, a text that is not empty"),
        (["--model_id", "--http_port=1"], {}, "--model_id needs a value, a text that is not empty"),
        (["--event-loop"], {}, "--event-loop needs a value, one of auto, asyncio, uvloop"),
        (["bert"], {}, "unexpected argument 'bert'; a flag starts with --"),
        (["--enable_grpc", "false", "true"], {}, "unexpected argument 'true'; a flag starts with --"),
        (["--modle_name", "x"], {}, "unknown flag --modle_name; did you mean --model_name?"),
        (["--Workers=9"], {}, "unknown flag --Workers; did you mean --workers?"),
        (["--no_enable_grpc"], {}, "unknown flag --no_enable_grpc; did you mean --enable_grpc?"),
        (["--http"], {}, "unknown flag --http; did you mean --http_port?"),
        (["--max_batch", "1"], {}, "unknown flag --max_batch; did you mean --max_batch_tokens?"),
        (["-http_port", "1"], {}, "unknown flag -http_port; did you mean --http_port?"),
        (["--lora_modlues", "a=b"], {}, "unknown flag --lora_modlues; did you mean --lora_modules?"),
        (["--frobnicate"], {}, "unknown flag --frobnicate; `modelserve serve --help` lists what there is"),
        (["--"], {}, "unknown flag --; `modelserve serve --help` lists what there is"),
        ([], {"MODELSERVE_DEVICE": "tpu"}, "MODELSERVE_DEVICE is 'tpu'; it must be one of auto, cpu, cuda"),
        ([], {"CE_MERGE": "x"}, "CE_MERGE is 'x'; it must be true or false"),
        ([], {"MODELSERVE_SEED": "1"}, f"unknown variable MODELSERVE_SEED{VLLM} MODELSERVE_VLLM_ARGS"),
        (["--vllm_args", "'x"], {}, "vllm_args is \"'x\"; a quotation mark is missing"),
        (["--model", "x"], {}, "unknown flag --model; did you mean --model_id?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said(argv: list[str], environ: dict[str, str], sentence: str) -> None:
    assert refusal(argv, environ) == sentence


def test_with_vllm_its_names_for_ours_are_ours() -> None:
    line = "--backend vllm --model org/x --revision v1 --served-model-name=m --max_num_batched_tokens 64 --port 1"
    config = parse(line.split(), {})
    assert (config.model_id, config.model_revision, config.model_name) == ("org/x", "v1", "m")
    assert (config.max_batch_tokens, config.http_port, config.vllm_args) == (64, 1, "")


@pytest.mark.parametrize("argv", [["--max_len", "3"], ["--return_prob"], ["--model", "x"], ["--worker=2"]])
def test_no_abbreviations(argv: list[str]) -> None:
    refusal(argv)


@pytest.mark.parametrize(
    ("argv", "environ"),
    [
        (["--return_raw_logits", "--return_probabilities"], {}),
        (["--return_raw_logits"], {"MODELSERVE_RETURN_PROBABILITIES": "1"}),
    ],
)
def test_probabilities_and_logits_exclude_each_other(argv: list[str], environ: dict[str, str]) -> None:
    assert refusal(argv, environ) == (
        "--return_probabilities and --return_raw_logits exclude each other; give only one of them"
    )
    assert parse(["--return_raw_logits", "--return_probabilities=false"], {}).return_raw_logits


@pytest.mark.parametrize(
    ("keywords", "sentence"),
    [
        ({"modle_name": "x"}, "unknown keyword modle_name; did you mean model_name?"),
        ({"tensor_parallel_size": 2}, f"unknown keyword tensor_parallel_size{VLLM} vllm_args"),
        ({"http_port": "x"}, "http_port is 'x'; it must be a whole number from 0 to 65535"),
        ({"http_port": None}, "http_port is 'None'; it must be a whole number from 0 to 65535"),
        ({"workers": True}, "workers is 'true'; it must be a whole number of at least 1"),
        ({"workers": 1.5}, "workers is '1.5'; it must be a whole number of at least 1"),
        ({"model_name": 5}, "model_name is 5; it must be a text that is not empty"),
        ({"model_name": None}, "model_name is None; it must be a text that is not empty"),
        (
            {"max_length": 1, "max_model_len": 2},
            "max_length and max_model_len are one parameter; give only one of them",
        ),
    ],
)  # fmt: skip
def test_wrong_keywords(keywords: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        from_keywords(**keywords)
    assert caught.value.message == sentence


def test_keywords_take_python_values() -> None:
    config = from_keywords(
        model_dir=Path("/models/bert"),
        request_timeout=3,
        enable_grpc=False,
        huggingface_task="FILL_MASK",
        model_id=None,
    )
    assert config == Config(model_dir="/models/bert", request_timeout=3.0, enable_grpc=False, task="fill_mask")
    assert type(config.request_timeout) is float


def test_a_variable_that_is_nobodys_is_a_warning() -> None:
    assert unknown_variables({"MODELSERVE_HTTPPORT": "1", "HTTP_PORT": "2", "MODELSERVE_HTTP_PORT": "3"}) == [
        "unknown variable MODELSERVE_HTTPPORT; did you mean MODELSERVE_HTTP_PORT? It has no effect."
    ]
    assert parse([], {"MODELSERVE_HTTPPORT": "1"}) == Config()


RESERVED = {
    "MODELSERVE_HOME": "/home",
    "MODELSERVE_TARGET": "local",
    "MODELSERVE_SECRET_KEY": "x",
    "MODELSERVE_PORTS_FILE": "/ports",
    "MODELSERVE_TEST_CACHE": "/cache",
    "MODELSERVE_WORKER_INDEX": "0",
}


def test_reserved_variables_are_left_alone() -> None:
    assert unknown_variables(RESERVED) == []
    assert parse([], RESERVED) == Config()


def test_what_kubernetes_says_of_services_is_no_parameter() -> None:
    """Every pod of a namespace with the services `modelserve` and `modelserve-http` has these."""
    links = {
        "MODELSERVE_SERVICE_HOST": "10.0.0.7",
        "MODELSERVE_SERVICE_PORT": "80",
        "MODELSERVE_SERVICE_PORT_HTTP": "80",
        "MODELSERVE_PORT": "tcp://10.0.0.7:80",
        "MODELSERVE_PORT_80_TCP": "tcp://10.0.0.7:80",
        "MODELSERVE_PORT_80_TCP_PROTO": "tcp",
        "MODELSERVE_PORT_80_TCP_PORT": "80",
        "MODELSERVE_PORT_80_TCP_ADDR": "10.0.0.7",
        "MODELSERVE_HTTP_SERVICE_HOST": "10.0.0.8",
        "MODELSERVE_HTTP_PORT": "tcp://10.0.0.8:8080",
    }
    assert parse([], links) == Config()
    assert unknown_variables(links) == []
    assert parse([], links | {"MODELSERVE_HTTP_PORT": "8000"}).http_port == 8000
    assert parse([], {"CE_SOURCE": "tcp://events"}).ce_source == "tcp://events"


def test_a_process_told_by_its_flags_reads_no_variable() -> None:
    environ = {
        "PATH": "/bin",
        "HF_HOME": "/cache",
        "MODELSERVE_ENABLE_GRPC": "false",
        "MODELSERVE_MAX_MODEL_LEN": "9",
        "KSERVE_LOGLEVEL": "DEBUG",
        "MODELSERVE_HTTPPORT": "1",
        **RESERVED,
    }
    config = parse(["--enable_grpc"], environ)
    assert config.enable_grpc
    left = without_parameters(environ)
    assert left == {"PATH": "/bin", "HF_HOME": "/cache", **RESERVED}
    assert parse(to_args(config), left) == config
