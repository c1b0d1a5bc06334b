"""Whether vLLM can run a model, and how it is told to: every reason against it, and ours in its words."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from modelserve import registry
from modelserve.backends.vllm_environment import Found
from modelserve.config import Config
from modelserve.environment import environment_defaults
from modelserve.errors import ConfigError, LoadError
from modelserve.flags import parse
from modelserve.runtime import engines
from modelserve.runtime.engine_vllm import build, check, refusal
from modelserve.runtime.vllm_arguments import _SET_HERE, arguments, command, environ
from modelserve.types import ModelInfo
from tests.fake_vllm import install

CPU = Found(version="0.32.0", device="cpu", architectures=["LlamaForCausalLM"])
GPU = Found(version="0.32.0", device="cuda", architectures=["LlamaForCausalLM"])


def info(path: Path, architecture: str | None = "LlamaForCausalLM", **config: Any) -> ModelInfo:
    described = {"architectures": [architecture] if architecture else None, **config}
    return ModelInfo(path, described, {}, 0, None, 8, 256)


def told(path: Path, found: Found, *argv: str) -> list[str]:
    tokenizer: Any = SimpleNamespace(loaded=SimpleNamespace(name_or_path=str(path)))
    return arguments(parse(argv, {}), info(path), tokenizer, found)


@pytest.mark.parametrize(
    ("architecture", "config", "device", "reason"),
    [
        ("LlamaForCausalLM", {}, "auto", None),
        ("LlamaForCausalLM", {}, "cpu", None),
        ("LlamaForCausalLM", {"is_encoder_decoder": True}, "auto", "vLLM runs no encoder-decoder models"),
        ("T5ForConditionalGeneration", {}, "auto", "vLLM 0.32.0+fake has no T5ForConditionalGeneration"),
        (None, {}, "auto", "vLLM 0.32.0+fake has no model without an architecture"),
        ("LlamaForCausalLM", {}, "cuda", "--device is cuda and vLLM 0.32.0+fake there runs on cpu"),
    ],
)
def test_what_it_cannot_run(
    tmp_path: Path, architecture: str | None, config: dict[str, Any], device: str, reason: str | None
) -> None:
    asked = Config(vllm_python=str(install(tmp_path)), device=device)
    assert refusal(asked, info(tmp_path, architecture, **config)) == reason
    if reason is not None:
        tokenizer: Any = None
        with pytest.raises(LoadError) as caught:
            build(asked, info(tmp_path, architecture, **config), "text_generation", tokenizer, lambda stage, part: None)
        assert caught.value.message == f"--backend vllm cannot serve this model: {reason}"


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ("--frobnicate 1", "unknown flag --frobnicate; `modelserve serve --help` lists what there is; nor has vLLM "),
        ("--http_prot=1", "unknown flag --http_prot; did you mean --http_port?; nor has vLLM "),
        ("--block-size=x", "vLLM 0.32.0+fake refuses its arguments: argument --block-size: invalid int value: 'x'"),
        (
            "--root_path=/",
            "--root_path is about vLLM's own HTTP server, which nobody sees behind this one; leave it out",
        ),
        ("--served-model-name=x", "--served_model_name in --vllm_args is --model_name here; give that"),
    ],
)
def test_arguments_are_refused_before_anything_is_loaded(tmp_path: Path, args: str, sentence: str) -> None:
    config = Config(vllm_python=str(install(tmp_path)), backend="vllm", vllm_args=args)
    for ask in (lambda: check(config), lambda: refusal(config, info(tmp_path))):
        with pytest.raises(ConfigError) as caught:
            ask()
        assert caught.value.message.startswith(sentence)
        assert not isinstance(caught.value, LoadError)


def test_an_explicit_vllm_that_is_not_there_fails() -> None:
    with pytest.raises(LoadError, match="--backend vllm: vLLM is not installed here"):
        check(Config(backend="vllm"))
    with pytest.raises(ConfigError, match="--workers 2 would start as many vLLM servers"):
        check(Config(backend="vllm", workers=2))


def test_ours_in_its_words(tmp_path: Path) -> None:
    said = told(tmp_path, CPU, "--model_name=bert", "--max_num_seqs=4", "--kv_cache_memory_bytes=1000000")
    assert {
        "--served-model-name=bert",
        "--max-model-len=256",
        "--dtype=float32",
        "--generation-config=vllm",
        "--max-num-seqs=4",
        "--kv-cache-memory-bytes=1000000",
        "--load-format=safetensors",
        '--structured-outputs-config={"backend": "guidance"}',
    } <= set(said)
    assert "--trust-remote-code" not in said
    assert "--trust-remote-code" in told(tmp_path, CPU, "--trust_remote_code")
    assert not any(word.startswith("--load-format") for word in told(tmp_path, CPU, "--allow_pickle"))


@pytest.mark.parametrize(
    ("found", "given", "said"),
    [
        (CPU, None, "float32"),
        (CPU, "auto", "float32"),
        (CPU, "bfloat16", "bfloat16"),
        (GPU, None, "auto"),
        (GPU, "auto", "auto"),
        (GPU, "float16", "float16"),
    ],
)
def test_dtype(tmp_path: Path, found: Found, given: str | None, said: str) -> None:
    assert f"--dtype={said}" in told(tmp_path, found, *([f"--dtype={given}"] if given else []))


def test_the_memory_of_a_cpu_is_shared(tmp_path: Path) -> None:
    kv = "--kv-cache-memory-bytes="
    assert any(word.startswith(kv) for word in told(tmp_path, CPU))
    assert not any(word.startswith(kv) for word in told(tmp_path, GPU))


def test_what_was_given_in_its_own_words_stays(tmp_path: Path) -> None:
    found = Found(device="cpu", given=["generation_config", "structured_outputs_config", "kv_cache_memory_bytes"])
    said = " ".join(told(tmp_path, found))
    assert "--generation-config" not in said
    assert "--structured-outputs-config" not in said
    assert "--kv-cache-memory-bytes" not in said


def test_a_tokenizer_of_another_revision(tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    tokenizer: Any = SimpleNamespace(loaded=SimpleNamespace(name_or_path=str(other)))
    assert f"--tokenizer={other}" in arguments(Config(), info(tmp_path), tokenizer, CPU)


def test_both_ways_to_start_it(tmp_path: Path) -> None:
    socket = tmp_path / "http"
    named = command("py", CPU, tmp_path, socket, ["--x"])
    assert named == ["py", "-m", "vllm.entrypoints.cli.main", "serve", str(tmp_path), f"--uds={socket}", "--x"]
    other = command("py", Found(has_command=False), tmp_path, socket, [])
    assert other[-5:] == ["-m", "vllm.entrypoints.openai.api_server", "--model", str(tmp_path), f"--uds={socket}"]


def test_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_HTTP_PORT", "1")
    monkeypatch.setenv("PROMETHEUS_MULTIPROC_DIR", "/x")
    monkeypatch.setenv("VLLM_API_KEY", "k")
    monkeypatch.setenv("OMP_WAIT_POLICY", "passive")
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0:glibc.malloc.arena_max=4")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 5, 6, 7})
    given = environ(Config(threads=4, allow_long_max_model_len=True), CPU)
    assert (given["VLLM_NO_USAGE_STATS"], given["DO_NOT_TRACK"]) == ("1", "1")
    assert (given["VLLM_CPU_OMP_THREADS_BIND"], given["OMP_NUM_THREADS"]) == ("4,5,6,7", "4")
    assert given["VLLM_ALLOW_LONG_MAX_MODEL_LEN"] == "1"
    assert given["GLIBC_TUNABLES"] == "glibc.malloc.arena_max=4"
    assert given["GOMP_SPINCOUNT"] == "7"
    kept = {"MODELSERVE_HTTP_PORT", "PROMETHEUS_MULTIPROC_DIR", "OMP_WAIT_POLICY", "VLLM_API_KEY"}
    assert not kept & given.keys()
    two = environ(Config(threads=4), Found(device="cpu", tensor_parallel_size=2))
    assert (two["VLLM_CPU_OMP_THREADS_BIND"], two["OMP_NUM_THREADS"]) == ("4,5|6,7", "2")
    assert "VLLM_CPU_OMP_THREADS_BIND" not in environ(Config(), GPU)
    monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "0")
    assert environ(Config(), CPU)["VLLM_CPU_OMP_THREADS_BIND"] == "0"


def test_what_this_process_tells_its_libraries_is_kept_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*_SET_HERE, "GOMP_SPINCOUNT", "MKL_DISABLE_FAST_MM"):
        monkeypatch.delenv(name, raising=False)
    environment_defaults()
    assert "GOMP_SPINCOUNT" in os.environ
    for name, value in _SET_HERE.items():
        monkeypatch.setenv(name, value)
    assert not {*_SET_HERE, "GOMP_SPINCOUNT", "MKL_DISABLE_FAST_MM"} & environ(Config(), GPU).keys()


def chosen(path: Path, *argv: str, **config: Any) -> tuple[str, str]:
    return engines.choose(parse(argv, {}), info(path, **config), "text_generation")


def test_auto_without_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert chosen(tmp_path, f"--vllm_python={install(tmp_path)}")[0] == "huggingface"


def test_auto_takes_a_conversion_on_a_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    load = registry.load
    found: list[Path | None] = [tmp_path, None]

    def instead(row: str) -> Any:
        return (lambda config, info: found[0]) if row == "modelserve.runtime.engine_openvino:converted" else load(row)

    monkeypatch.setattr(registry, "load", instead)
    assert chosen(tmp_path) == ("openvino", "there is a conversion of it that passed its check, and no GPU")
    del found[0]
    assert chosen(tmp_path)[0] == "huggingface"


@pytest.mark.parametrize(
    ("settings", "config", "argv", "name", "why"),
    [
        ({"device": "cuda"}, {}, [], "vllm", "there is a GPU, and vLLM has the architecture"),
        (
            {"device": "cuda"},
            {"is_encoder_decoder": True},
            [],
            "huggingface",
            "but vLLM runs no encoder-decoder models",
        ),
        (
            {"device": "cuda", "architectures": []},
            {},
            [],
            "huggingface",
            "but vLLM 0.32.0+fake has no LlamaForCausalLM",
        ),
        (
            {"device": "cpu"},
            {},
            ["--device=cuda"],
            "huggingface",
            "--device is cuda and vLLM 0.32.0+fake there runs on cpu",
        ),
        ({"device": "cuda"}, {}, ["--workers=2"], "huggingface", "as many vLLM servers"),
    ],
)
def test_auto_with_a_gpu(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    config: dict[str, Any],
    argv: list[str],
    name: str,
    why: str,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = chosen(tmp_path, f"--vllm_python={install(tmp_path, **settings)}", *argv, **config)
    assert found[0] == name
    assert found[1].endswith(why)


def test_auto_with_a_gpu_and_no_vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert chosen(tmp_path) == ("huggingface", "there is a GPU, but vLLM is not installed")
    assert chosen(tmp_path, "--vllm_python=/none")[1].startswith(
        "there is a GPU, but --vllm_python /none cannot be run"
    )


def test_what_is_vllms_alone_is_not_ignored(tmp_path: Path) -> None:
    for argv in (["--block_size=16"], ["--block_size=16", "--backend=huggingface"]):
        with pytest.raises(
            ConfigError, match=r"^--block_size belongs to the vllm backend, and the backend is huggingf"
        ):
            chosen(tmp_path, *argv)
    for word, said in (("--backend=vllm", "--backend vllm"), ("--seed=1", "--seed")):
        with pytest.raises(ConfigError, match=f"^{said} is for models that write text"):
            engines.check_task(parse([word], {}), "fill_mask")
    engines.check_task(parse(["--backend=huggingface"], {}), "fill_mask")
