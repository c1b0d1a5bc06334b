"""A run whose network is elsewhere: `predictor_host` from the SDK and the command line, real servers at both ends."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import modelserve as ms
from modelserve.deploy import catalog
from modelserve.run_line import parse
from tests.models import tiny
from tests.process import Server, serve

TEXT = "The capital of France is [MASK]."
SENT = ["input_ids", "attention_mask", "token_type_ids"]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    yield tmp_path / "home"
    catalog._store.cache_clear()


@pytest.fixture(scope="module")
def remote() -> Iterator[Server]:
    with serve("--model_dir", tiny("bert", "fill_mask"), "--model_name=tiny") as server:
        yield server


@pytest.fixture
def bare(tmp_path: Path) -> Path:
    """The same model without its weights: a tokenizer and a config."""
    model = tmp_path / "bare"
    shutil.copytree(tiny("bert", "fill_mask"), model, ignore=shutil.ignore_patterns("*.safetensors", "*.bin"))
    assert sum(file.stat().st_size for file in model.iterdir()) < 10**6
    return model


@pytest.mark.slow
def test_a_run_here_asks_the_server_that_it_is_told(
    home: Path, bare: Path, remote: Server, caplog: pytest.LogCaptureFixture
) -> None:
    """And keeps for a cluster what is for a cluster."""
    function = ms.new_function("demo", "bare", "huggingfaceserve", path=str(bare))
    function.new_task("serve", tensor_input_names=SENT, huggingface_task="fill_mask")
    triton = {"model_repository": "s3://models"}
    run = function.run(
        action="serve",
        predictor_host=f"127.0.0.1:{remote.http_port}",
        predictor_request_timeout_seconds=30,
        model_name="tiny",
        triton=triton,
        wait=True,
        timeout=60,
        log_info=False,
    )
    try:
        assert "triton: kept for a cluster; no effect on this machine" in caplog.text
        assert run.spec.tensor_input_names == SENT
        assert run.client.info()["backend"] == "remote"
        assert run.predict([TEXT, "[MASK]"]) == ms.Client(remote.url, "tiny").predict([TEXT, "[MASK]"])
    finally:
        run.delete()


def test_the_same_words_on_a_command_line() -> None:
    triton = '{"model_repository": "s3://models", "form": "deployment"}'
    words = ["--predictor_host=triton:8000", "--tensor_input_names", ",".join(SENT), "--triton", triton]
    line = parse(["bert", *words])
    assert line.parameters["predictor_host"] == "triton:8000"
    assert list(line.parameters["tensor_input_names"]) == SENT
    assert line.parameters["triton"] == {"model_repository": "s3://models", "form": "deployment"}


def test_another_kind_of_model_has_no_predictor(home: Path, tmp_path: Path) -> None:
    function = ms.new_function("demo", "iris", "sklearnserve", path="s3://models/iris.skops")
    with pytest.raises(ms.ConfigError, match="predictor_host is 'triton:8000'; it is for Hugging Face models"):
        function.run("serve", predictor_host="triton:8000")
