"""A pass over every API of a real `modelserve serve` process, over sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
from sentence_transformers import SentenceTransformer

from tests.conformance.apis import apis, ask
from tests.conformance.reference import assert_same, prediction
from tests.conformance.serving import NAME, reached
from tests.models import minilm, tiny
from tests.process import serve

TEXTS = ["Hello world", "Zoë's café [MASK] in São Paulo", "a [MASK] b", "A server [MASK] many requests at once. " * 60]


def of_minilm(path: Path, task: str, text: str) -> Any:
    return SentenceTransformer(str(path)).encode(text).tolist()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "task", "reference"),
    [
        (minilm, "text_embedding", of_minilm),
        (lambda: tiny("bert", "token_classification", cased=True), "token_classification", prediction),
        (lambda: tiny("deberta-v2", "fill_mask"), "fill_mask", prediction),
        (lambda: tiny("modernbert", "sequence_classification"), "sequence_classification", prediction),
    ],
    ids=["minilm", "token_classification", "fill_mask", "sequence_classification"],
)
async def test_equals_the_reference(path: Callable[[], Path], task: str, reference: Callable[..., Any]) -> None:
    model = path()
    texts = TEXTS[1:] if task == "fill_mask" else TEXTS
    expected = [reference(model, task, text) for text in texts]
    with serve(f"--model_name={NAME}", "--model_dir", model) as server:
        async with (
            httpx.AsyncClient(base_url=server.url, timeout=60) as http,
            grpc.aio.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel,
        ):
            served = reached(http, channel)
            for api in apis(task):
                assert_same((await ask(served, api, texts)).predictions, expected)
            crowd = [(api, text, wanted) for text, wanted in zip(texts, expected, strict=True) for api in apis(task)]
            answers = await asyncio.gather(*(ask(served, api, [text]) for api, text, _ in crowd * 4))
            for answer, (*_, wanted) in zip(answers, crowd * 4, strict=True):
                assert_same(answer.predictions, [wanted])
            metrics = dict(
                line.rsplit(" ", 1)
                for line in (await http.get("/metrics")).text.splitlines()
                if line[:1] not in ("", "#")
            )
        passes, computed = (float(metrics[f"modelserve_batch_size_{name}"]) for name in ("count", "sum"))
        assert computed == len(apis(task)) * len(texts) + len(crowd) * 4
        assert passes < computed
        assert server.stop() == 0
