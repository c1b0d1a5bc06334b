"""The CUDA paths, on machines that have a GPU: packed by blocks in float32, by the variable-length kernel in half."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from modelserve.backends.base import OutOfMemory
from modelserve.types import Encoding
from tests.backends.test_huggingface import ARCHITECTURES, HEADS, PADDED, answers, load, reference, some_texts
from tests.models import minilm, tiny

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")


@pytest.mark.parametrize("task", HEADS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_float32_equals_the_cpu(architecture: str, task: str) -> None:
    path = tiny(architecture, task)
    texts = some_texts()
    backend = load(path, task, device="cuda")
    assert backend.limits.layout == ("padded" if architecture in PADDED else "packed"), backend.verdict
    for got, want in zip(answers(backend, task, texts), reference(path, task, texts), strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_half_precision_stays_near(architecture: str, dtype: str) -> None:
    path = tiny(architecture, "text_embedding")
    texts = some_texts()
    backend = load(path, "text_embedding", device="cuda", dtype=dtype)
    for got, want in zip(
        answers(backend, "text_embedding", texts), reference(path, "text_embedding", texts), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=0.2, rtol=0)


def test_real_weights_use_the_variable_length_kernel() -> None:
    from modelserve.backends.huggingface import HuggingFaceBackend

    backend = HuggingFaceBackend(
        minilm(), auto_class="AutoModel", head="none", max_length=256, device="cuda", dtype="auto"
    )
    assert backend.dtype == "float16"
    assert backend.verdict.layout == "packed"
    assert backend.verdict.varlen, backend.verdict.reason
    texts = [[101, *ids, 102] for ids in some_texts(vocabulary=20000, longest=200)]
    for got, want in zip(
        answers(backend, "text_embedding", texts), reference(minilm(), "text_embedding", texts), strict=True
    ):
        a, b = got.mean(0), want.mean(0).astype(np.float32)
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) > 0.9999


def test_out_of_memory_is_told_apart_and_survived() -> None:
    backend = load(tiny("bert", "text_embedding"), "text_embedding", device="cuda")

    def greedy(states: object, batch: object) -> list[object]:
        torch.empty(1 << 50, dtype=torch.uint8, device="cuda")
        raise AssertionError("a petabyte was allocated")

    with pytest.raises(OutOfMemory):
        backend.forward([Encoding(ids=[1, 2])], greedy)  # type: ignore[arg-type]
    assert len(answers(backend, "text_embedding", [[1, 2, 3]])) == 1
