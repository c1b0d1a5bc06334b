"""The command line of `modelserve run`, as data."""

import re
from typing import Any

import pytest

from modelserve.errors import ConfigError
from modelserve.run_line import Line, names, parse


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("bert", {}),
        ("bert --replicas 2", {"replicas": 2}),
        ("--replicas=2 bert", {"replicas": 2}),
        ("bert --resources cpu=2,mem=4Gi", {"resources": {"cpu": "2", "mem": "4Gi"}}),
        ('bert --resources {"cpu":{"limits":"2"}}', {"resources": {"cpu": {"limits": "2"}}}),
        ("bert --resources cpu=2 --resources cpu=3", {"resources": {"cpu": "3"}}),
        ("bert --node-selector a=1,b=2", {"node_selector": {"a": "1", "b": "2"}}),
        ("bert --env A=1 --env B=x=y", {"envs": [{"name": "A", "value": "1"}, {"name": "B", "value": "x=y"}]}),
        ("bert --env A=", {"envs": [{"name": "A", "value": ""}]}),
        ('bert --envs {"A":"1"} --env B=2', {"envs": [{"name": "A", "value": "1"}, {"name": "B", "value": "2"}]}),
        ("bert --envs A=1 --envs B=2", {"envs": {"A": "1", "B": "2"}}),
        ("bert --secret A --secret B", {"secrets": ["A", "B"]}),
        ("bert --secrets A,B --secret C", {"secrets": ["A", "B", "C"]}),
        ("bert --args --max_length=9", {"args": ["--max_length=9"]}),
        ("bert --args --max_length=9 --args=--dtype=float32", {"args": ["--max_length=9", "--dtype=float32"]}),
        ('bert --args ["--max_length","9"]', {"args": ["--max_length", "9"]}),
        ('bert --tolerations [{"operator":"Exists"}]', {"tolerations": [{"operator": "Exists"}]}),
        ("bert --model_name [x] --profile small", {"model_name": "[x]", "profile": "small"}),
        ("bert --model_name 7", {"model_name": "7"}),
        ("bert --task fill_mask", {"huggingface_task": "fill_mask"}),
        ("bert --huggingface_task fill_mask", {"huggingface_task": "fill_mask"}),
        ("bert --max-length 9", {"max_length": 9}),
        ("bert --return_probabilities", {"return_probabilities": True}),
        ("--return_probabilities bert", {"return_probabilities": True}),
        ("--return_probabilities false bert", {"return_probabilities": False}),
        ("bert --return-probabilities=no", {"return_probabilities": False}),
        ("--enforce-eager bert --tensor_parallel_size 2", {"vllm_args": "--enforce-eager --tensor_parallel_size=2"}),
        ("bert --backend vllm --vllm_args --seed=3", {"backend": "vllm", "vllm_args": "--seed=3"}),
        ("-- bert", {}),
    ],
)
def test_parameters(typed: str, expected: dict[str, Any]) -> None:
    line = parse(typed.split())
    assert line == Line(what="bert", parameters=expected)
    assert [type(value) for value in line.parameters.values()] == [type(value) for value in expected.values()]


def test_quoted_args() -> None:
    assert parse(["bert", "--args", "--max_length 9 --dtype 'float32'"]).parameters["args"] == [
        "--max_length",
        "9",
        "--dtype",
        "float32",
    ]


def test_own_options() -> None:
    typed = "hf://a/b --detach --no-wait --json --timeout 1.5 --project p --name n --kind k --target local"
    assert parse(typed.split()) == Line(
        what="hf://a/b",
        parameters={},
        detach=True,
        no_wait=True,
        json=True,
        timeout=1.5,
        project="p",
        name="n",
        kind="k",
        target="local",
    )
    assert not parse(["bert", "--detach=false"]).detach
    assert parse(["--detach", "bert"]).what == "bert"


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "give one function's name or one path, not 0: nothing"),
        ("a b", "give one function's name or one path, not 2: a b"),
        ("a --replica 2", "unknown flag --replica; did you mean --replicas?"),
        ("a --resource cpu=2", "unknown flag --resource; did you mean --resources?"),
        ("a --detahc", "unknown flag --detahc; did you mean --detach?"),
        ("a --max_lenght 2", "unknown flag --max_lenght; did you mean --max_length?"),
        ("a --xyzzy", "unknown flag --xyzzy; `modelserve run --help` lists what there is"),
        ("a -d", "unknown flag -d; "),
        (
            "a --model_dir x",
            "--model_dir is for `modelserve serve`; say the directory in the place of a function's name",
        ),
        ("a --workers 2", "--workers is for `modelserve serve`; say --replicas N"),
        ("a --gpu_memory_utilization", "--gpu_memory_utilization needs a value"),
        ("a --replicas", "--replicas needs a value, such as N"),
        ("a --project --detach", "--project needs a value"),
        ("a --detach=perhaps", "--detach is 'perhaps'; it must be true or false"),
        ("a --timeout soon", "--timeout is 'soon'; it must be a number of seconds"),
        ("a --timeout -1", "--timeout is '-1'; it must be a number of seconds"),
        ("a --timeout nan", "--timeout is 'nan'; it must be a number of seconds"),
        ("a --env A", "--env is 'A'; it must be A=1, or JSON"),
        ("a --resources cpu", "--resources is 'cpu'; it must be cpu=2,mem=4Gi, or JSON"),
        ("a --resources cpu=much", "resources['cpu'] is 'much'"),
        ("a --resources cpu=2,cpu=3", "--resources is 'cpu=2,cpu=3', which has cpu more than once; give it one value"),
        ("a --node_selector a=1,b=2,a=1", "which has a more than once; give it one value"),
        ("a --volumes [{", "--volumes is '[{', which is no JSON: "),
        ("a --volumes x", "volumes is 'x'; it must be a list of mappings"),
        ("a --replicas x", "replicas is 'x'; it must be a whole number of at least 1"),
        ("a --args 'x", '--args is "\'x"; a quotation mark is missing'),
        ("a --max_length many", "--max_length is 'many'; it must be"),
        ("a --return_probabilities=perhaps", "--return_probabilities is 'perhaps'; it must be true or false"),
    ],
)
def test_what_is_wrong(typed: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as raised:
        parse(typed.split())
    assert sentence in raised.value.message


@pytest.mark.parametrize("name", names())
def test_every_name_is_one(name: str) -> None:
    try:
        parse(["a", f"--{name}=1"])
    except ConfigError as error:
        assert not re.search("unknown|for `modelserve serve`", error.message)  # noqa: PT017  # a wrong value is fine


def test_names_are_there_once() -> None:
    assert len(names()) == len(set(names()))
