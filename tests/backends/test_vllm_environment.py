"""What an environment's vLLM says of itself and of arguments, through its own parser, in a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from modelserve.backends.vllm_environment import installed, probe, python_of
from modelserve.errors import LoadError
from tests.fake_vllm import install


def test_what_it_is(tmp_path: Path) -> None:
    python = install(tmp_path, architectures=["B", "A"], device="cuda")
    found = probe(str(python))
    assert (found.version, found.device, found.architectures) == ("0.32.0+fake", "cuda", ["A", "B"])
    assert found.has_command
    assert found.has_socket
    assert (found.given, found.wrong, found.adapters) == ([], "", [])


def test_what_was_given(tmp_path: Path) -> None:
    python = install(tmp_path, command=False)
    args = ("--enforce_eager", "--block-size=16", "--tensor_parallel_size", "2", "--lora-modules", "a=/x", "b=/y")
    found = probe(str(python), args)
    assert found.wrong == ""
    assert found.given == ["block_size", "enforce_eager", "lora_modules", "tensor_parallel_size"]
    assert found.adapters == [("a", "/x"), ("b", "/y")]
    assert found.tensor_parallel_size == 2
    assert found.foreign == []
    assert not found.has_command


@pytest.mark.parametrize(
    ("args", "wrong"),
    [
        (["--frobnicate", "1"], "unrecognized arguments: --frobnicate"),
        (["--enforce"], "unrecognized arguments: --enforce"),
        (["--enforce-eager", "yes"], "unrecognized arguments: yes"),
        (["--block-size", "many"], "argument --block-size: invalid int value: 'many'"),
        (["--block-size"], "argument --block-size: expected one argument"),
        (["--lora-modules", "x"], "argument --lora-modules: invalid <lambda> value: 'x'"),
        (["--help"], "unrecognized arguments: --help"),
    ],
)
def test_what_its_parser_refuses(tmp_path: Path, args: list[str], wrong: str) -> None:
    assert probe(str(install(tmp_path)), tuple(args)).wrong == wrong


def test_what_is_about_its_own_server(tmp_path: Path) -> None:
    assert probe(str(install(tmp_path)), ("--root-path=/x", "--seed=1")).foreign == ["root_path"]


def test_a_python_without_vllm() -> None:
    assert not installed(None)
    assert installed(sys.executable)
    with pytest.raises(LoadError, match=r"vLLM cannot be imported by .*No module named 'vllm'.*--vllm_python"):
        probe(sys.executable)


def test_what_is_no_python(tmp_path: Path) -> None:
    with pytest.raises(LoadError, match="cannot be run: No such file or directory; give the Python of vLLM"):
        probe(str(tmp_path / "none"))
    with pytest.raises(LoadError, match="did not answer what its vLLM is"):
        probe("/bin/true")


def test_a_home_directory_is_understood() -> None:
    assert python_of("~/x") == str(Path.home() / "x")
    assert python_of(None) == sys.executable
