"""What `modelserve export` writes, served by a real Triton with our server in front, answers as transformers does: for
every encoder task, over every API, alone, in batches and in a crowd.

That Triton has no ONNX backend: its Python backend runs the file with ONNX Runtime (tests/triton_models/onnx_model.py),
by the very config.pbtxt that was exported but for the line that names the backend.
"""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from modelserve import cli
from tests.conformance.apis import apis, ask
from tests.conformance.reference import assert_same, prediction
from tests.conformance.serving import reached
from tests.models import tiny
from tests.process import serve
from tests.triton import Triton, triton
from tests.triton_models import HERE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TEXTS = [
    "Hello world [MASK]",
    "Zoë's café [MASK] in São Paulo",
    "[MASK]",
    "A server [MASK] many requests at once. " + "It sorts them by length and runs them together. " * 9,
    "Maria Rossi works for a [MASK] in Milan.",
    "The cat sat on the [MASK]. The dog slept near the door.",
]
EXACT = 5e-5
"""ONNX Runtime's own kernels add up in another order."""


@dataclass(frozen=True)
class Case:
    """A model, how it is exported, and how our server asks Triton for it."""

    protocol: str
    output: str
    dims: list[int]
    """Without the batch; 0 is the size of the vocabulary."""
    batch: int = 32
    words: tuple[str, ...] = ()
    """Further ones of `modelserve export`."""


CASES = {
    "sequence_classification": Case("v2", "logits", [3]),
    "token_classification": Case("grpc-v2", "logits", [-1, 5], 1, ("--max_batch_size=1",)),
    "fill_mask": Case("v2", "logits", [-1, 0], words=("--device=cpu",)),
    "text_embedding": Case("grpc-v2", "last_hidden_state", [-1, 32], 4, ("--max_batch_size=4",)),
}


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Triton]:
    repository = tmp_path_factory.mktemp("exported") / "repo"
    for task, case in CASES.items():
        place = (f"--model_dir={tiny('bert', task)}", f"--task={task}", f"--output={repository}")
        assert cli.main(["export", "--format=onnx", *place, f"--model_name={task}", *case.words]) == 0
        shutil.copy(HERE / "onnx_model.py", repository / task / "1" / "model.py")
        config = repository / task / "config.pbtxt"
        exported = config.read_text()
        assert exported.count('backend: "onnxruntime"') == 1
        config.write_text(exported.replace('backend: "onnxruntime"', 'backend: "python"'))
    with triton(repository) as server:
        yield server


@pytest.mark.parametrize("task", CASES)
async def test_answers_are_those_of_transformers(running: Triton, tmp_path: Path, task: str) -> None:
    case, path = CASES[task], tiny("bert", task)
    asked = {} if task == "text_embedding" else {"return_raw_logits": True}
    expected = [prediction(path, task, text, next(iter(asked), None)) for text in TEXTS]
    here = tmp_path / "without-weights"
    shutil.copytree(path, here, ignore=shutil.ignore_patterns("*.safetensors"))
    flags = (f"--predictor_host={running.host(case.protocol)}", f"--predictor_protocol={case.protocol}")
    before = computed(running, task)
    with serve(f"--model_name={task}", "--model_dir", here, *flags) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            served = reached(http, channel, task)
            for api in apis(task):
                assert_same((await ask(served, api, TEXTS, **asked)).predictions, expected, EXACT)
            crowd = [(api, i) for api in apis(task) for i in range(len(TEXTS))]
            answers = await asyncio.gather(*(ask(served, api, [TEXTS[i]], **asked) for api, i in crowd))
            for (_, i), answer in zip(crowd, answers, strict=True):
                assert_same(answer.predictions, [expected[i]], EXACT)
        assert server.stop() == 0
    texts, passes = (now - then for now, then in zip(computed(running, task), before, strict=True))
    assert texts == len(apis(task)) * len(TEXTS) + len(crowd)
    assert passes == texts if case.batch == 1 else passes < texts


@pytest.mark.parametrize("task", CASES)
def test_triton_reads_the_configuration(running: Triton, task: str) -> None:
    case, path = CASES[task], tiny("bert", task)
    config: dict[str, Any] = httpx.get(f"{running.url}/v2/models/{task}/config", timeout=10).json()
    words = json.loads((path / "config.json").read_text())["vocab_size"]
    dims = [size or words for size in case.dims]
    inputs, outputs = (
        [(one["name"], one["data_type"], [int(size) for size in one["dims"]]) for one in config[kind]]
        for kind in ("input", "output")
    )
    assert (config["name"], config["max_batch_size"]) == (task, case.batch)
    assert inputs == [(name, "TYPE_INT64", [-1]) for name in ("input_ids", "attention_mask", "token_type_ids")]
    assert outputs == [(case.output, "TYPE_FP32", dims)]
    assert ("dynamic_batching" in config) is (case.batch > 1)
    assert [one["kind"] for one in config["instance_group"]] == ["KIND_CPU"]


def computed(running: Triton, name: str) -> tuple[int, int]:
    """Texts that Triton has run through a model, and in how many requests."""
    (said,) = httpx.get(f"{running.url}/v2/models/{name}/stats", timeout=10).json()["model_stats"]
    return said["inference_count"], said["inference_stats"]["success"]["count"]
