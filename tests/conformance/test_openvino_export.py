"""`modelserve convert` with the real exporter, in the environment that it makes (2 GB, kept under .venvs): `make
test-openvino`. Which architectures pass, and what a conversion then writes."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelserve.errors import LoadError
from modelserve.runtime import conversions
from modelserve.runtime.conversion import Asked, convert
from tests.conformance.serving import Serve
from tests.conformance.test_generation import LONG, PROMPTS, complete, expected
from tests.environments import ROOT
from tests.generative import tiny_generative

pytestmark = [pytest.mark.openvino, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]

PASS = ("llama", "qwen2", "qwen3", "mistral", "phi", "gpt2", "bloom", "falcon")
REFUSED = ("gemma2", "mamba")


@pytest.fixture(autouse=True)
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """An empty one, but for the exporter's environment."""
    if request.config.getoption("markexpr") != "openvino":
        pytest.skip("wants the exporter's environment of 2 GB; `make test-openvino` makes it")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    kept = ROOT / "openvino"
    kept.mkdir(parents=True, exist_ok=True)
    conversions.cache().mkdir(parents=True)
    (conversions.cache() / "environments").symlink_to(kept)


def made(path: Path, weights: str = "float32", output: Path | None = None) -> tuple[Path, conversions.Record, bool]:
    from modelserve.flags import from_keywords

    config = from_keywords(model_dir=path, threads=2)
    return convert(Asked(config=config, weights=weights, output=output, python=None), lambda text: None)


@pytest.mark.parametrize("architecture", PASS)
async def test_these_architectures_write_what_generate_does(serve: Serve, architecture: str) -> None:
    path = tiny_generative(architecture)
    directory, record, _ = made(path)
    assert record.passed
    assert record.deviations["float32"].equal == 1.0
    assert record.deviations["float32"].tokens >= 300
    assert made(path) == (directory, record, False)
    served = await serve(path, device="cpu")
    assert (await served.http.get("/info")).json()["backend"] == "openvino"
    texts = [expected(path, prompt) for prompt in PROMPTS]
    crowd = await asyncio.gather(*(complete(served, prompt) for prompt in PROMPTS * 4), complete(served, LONG))
    assert [answer["choices"][0]["text"] for answer in crowd] == [*texts * 4, expected(path, LONG)]


@pytest.mark.parametrize("architecture", REFUSED)
async def test_these_are_refused_and_leave_nothing(architecture: str, tmp_path: Path) -> None:
    with pytest.raises(
        LoadError, match="cannot be exported to OpenVINO: The current version of Transformers does not allow"
    ):
        made(tiny_generative(architecture), output=tmp_path / "made")
    assert list(tmp_path.rglob("*.xml")) == []  # noqa: ASYNC240


async def test_int8_tells_how_far_it_is(serve: Serve, tmp_path: Path) -> None:
    path = tiny_generative("llama")
    directory, record, _ = made(path, "int8")
    whole, _, _ = made(path)
    assert not record.passed
    assert 0.5 < record.deviations["float32"].equal <= 1.0
    assert record.deviations["float32"].largest > 1e-3
    size = (directory / "openvino_model.bin").stat().st_size
    assert size < 0.4 * (whole / "openvino_model.bin").stat().st_size
    served = await serve(directory)
    info = (await served.http.get("/info")).json()
    assert info["engine"].startswith("texts join and leave between steps of OpenVINO, int8 weights in float32, ")
    assert (await complete(served, PROMPTS[0]))["usage"]["completion_tokens"] > 1


async def test_the_command(tmp_path: Path) -> None:
    """As a person types it; progress in lines, the directory last."""
    command = [sys.executable, "-m", "modelserve", "convert", "--to=openvino", f"--output={tmp_path / 'made'}"]
    done = await asyncio.to_thread(
        subprocess.run,
        [*command, f"--model_dir={tiny_generative('llama')}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=True,
        env=os.environ,
    )
    assert done.stdout == f"{tmp_path / 'made'}\n"
    assert "exporting the graph" in done.stderr
    assert "float32: 100.0% of" in done.stderr
    assert conversions.read(tmp_path / "made") is not None
