"""The backend against transformers itself, on the same weights: alone, in a crowd, packed beside other lengths."""

from __future__ import annotations

import gc
import random
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from modelserve.backends.base import OutOfMemory
from modelserve.backends.huggingface import HuggingFaceBackend
from modelserve.backends.packing import groups_of
from modelserve.errors import LoadError
from modelserve.tasks import raw
from modelserve.types import Encoding, Output
from tests.models import minilm, tiny

ARCHITECTURES = [
    "bert", "distilbert", "roberta", "xlm-roberta", "electra", "deberta-v2", "mpnet", "albert", "modernbert",
]  # fmt: skip
HEADS = {
    "text_embedding": ("AutoModel", "none"),
    "sequence_classification": ("AutoModelForSequenceClassification", "sequence"),
    "token_classification": ("AutoModelForTokenClassification", "token"),
    "fill_mask": ("AutoModelForMaskedLM", "token"),
}
PADDED = {"deberta-v2", "mpnet"}
"""They compute relative positions over the whole row, so a packed row gives other answers."""


class Raw:
    """As much of a task as `tasks.raw` reads."""

    def __init__(self, head: str) -> None:
        self.head = head


def load(path: Any, task: str, **kwargs: Any) -> HuggingFaceBackend:
    auto_class, head = HEADS[task]
    return HuggingFaceBackend(path, auto_class=auto_class, head=head, max_length=128, **kwargs)  # type: ignore[arg-type]


def answers(backend: HuggingFaceBackend, task: str, texts: Sequence[list[int]], **kwargs: Any) -> list[np.ndarray]:
    encodings = [Encoding(ids=ids, raw=True) for ids in texts]

    def reduce(states: Any, batch: Sequence[Encoding]) -> list[Output]:
        return raw.reduce(Raw(HEADS[task][1]), states, batch)  # type: ignore[arg-type]

    return backend.forward(encodings, reduce, **kwargs)


def reference(path: Any, task: str, texts: Sequence[list[int]]) -> list[np.ndarray]:
    model = getattr(transformers, HEADS[task][0]).from_pretrained(path).eval()
    with torch.inference_mode():
        return [model(input_ids=torch.tensor([ids]))[0][0].numpy() for ids in texts]


def some_texts(vocabulary: int = 100, longest: int = 100) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(5, vocabulary) for _ in range(n)] for n in (12, 3, longest, 12, 1, 47, 3, 12)]


@pytest.mark.parametrize(
    ("architecture", "task"),
    [
        pytest.param(
            architecture, task, marks=[] if architecture == "bert" or quick == number % 4 else pytest.mark.slow
        )
        for number, architecture in enumerate(ARCHITECTURES)
        for quick, task in enumerate(HEADS)
    ],
)
def test_equals_transformers(architecture: str, task: str) -> None:
    path = tiny(architecture, task)
    texts = some_texts()
    backend = load(path, task)
    assert backend.limits.layout == ("padded" if architecture in PADDED else "packed"), backend.verdict
    expected = reference(path, task, texts)
    for batch in (texts, texts[:1], texts[::-1]):
        wanted = [expected[texts.index(ids)] for ids in batch]
        for got, want in zip(answers(backend, task, batch, alone=False), wanted, strict=True):
            np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_real_weights_in_a_crowd() -> None:
    texts = [[101, *ids, 102] for ids in some_texts(vocabulary=20000, longest=200)]
    backend = HuggingFaceBackend(minilm(), auto_class="AutoModel", head="none", max_length=256)
    for got, want in zip(
        answers(backend, "text_embedding", texts), reference(minilm(), "text_embedding", texts), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("task", ["text_embedding", "fill_mask"])
def test_closing_frees_the_weights_though_nothing_is_collected(task: str) -> None:
    backend = load(tiny("bert", task), task)
    weights = weakref.ref(next(backend.network.whole.parameters()))
    gc.collect()
    gc.disable()
    try:
        backend.close()
        assert weights() is None
    finally:
        gc.enable()


def test_token_types_reach_the_network() -> None:
    path = tiny("bert", "sequence_classification")
    backend = load(path, "sequence_classification")
    ids, types = [7, 8, 9, 10, 11], [0, 0, 0, 1, 1]
    model = transformers.AutoModelForSequenceClassification.from_pretrained(path).eval()
    with torch.inference_mode():
        want = model(input_ids=torch.tensor([ids]), token_type_ids=torch.tensor([types])).logits[0].numpy()
    encodings = [Encoding(ids=[5] * 9, raw=True), Encoding(ids=ids, type_ids=types, raw=True)]
    got = backend.forward(encodings, lambda s, b: raw.reduce(Raw("sequence"), s, b))[1]  # type: ignore[arg-type]
    np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


def test_roberta_with_the_padding_token_in_a_text() -> None:
    path = tiny("roberta", "text_embedding")
    padding = transformers.AutoConfig.from_pretrained(path).pad_token_id
    texts = [[5, 6, 7], [8, padding, 9, padding, 10]]
    for got, want in zip(
        answers(load(path, "text_embedding"), "text_embedding", texts),
        reference(path, "text_embedding", texts),
        strict=True,
    ):
        np.testing.assert_allclose(got, want, atol=1e-5, rtol=0)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_stays_near(dtype: str) -> None:
    texts = some_texts()
    path = tiny("bert", "text_embedding")
    backend = load(path, "text_embedding", dtype=dtype)
    assert backend.dtype == dtype
    for got, want in zip(
        answers(backend, "text_embedding", texts), reference(path, "text_embedding", texts), strict=True
    ):
        np.testing.assert_allclose(got, want, atol=0.15, rtol=0)


class _Changed(torch.nn.Module):
    """Stands where a custom architecture's own code would: an encoder whose answer depends on its surroundings."""

    def __init__(self, inner: torch.nn.Module, change: Any) -> None:
        super().__init__()
        self.inner, self.change = inner, change

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        return self.change(output)


def with_encoder(monkeypatch: pytest.MonkeyPatch, change: Any) -> HuggingFaceBackend:
    """A BERT whose layers are followed by `change` of the hidden states [B, L, H]."""
    original = transformers.BertModel.from_pretrained

    def loading(path: Any, **kwargs: Any) -> Any:
        model, report = original(path, **kwargs)
        model.encoder.layer[-1] = _Changed(model.encoder.layer[-1], change)
        return model, report

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", loading)
    return load(tiny("bert", "text_embedding"), "text_embedding")


def test_an_encoder_that_looks_along_its_row_is_not_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    """It shifts what it sees by one token, so a packed text sees the end of its neighbour; padding is harmless."""
    backend = with_encoder(monkeypatch, lambda hidden: hidden + 0.5 * torch.cat([hidden[:, :1] * 0, hidden[:, :-1]], 1))
    assert backend.limits.layout == "padded"
    assert "packed: answers differ" in backend.verdict.reason


def test_an_encoder_that_counts_padding_gets_equal_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = with_encoder(monkeypatch, lambda hidden: hidden + hidden.mean(1, keepdim=True))
    assert backend.limits.layout == "equal"


def test_an_encoder_that_looks_at_its_neighbours_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = with_encoder(monkeypatch, lambda hidden: hidden + hidden.mean((0, 1), keepdim=True))
    assert backend.limits.layout == "single"


def test_weights_of_nan_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(LoadError, match="NaN"):
        with_encoder(monkeypatch, lambda hidden: hidden * float("nan"))


def test_too_few_positions_are_refused() -> None:
    with pytest.raises(LoadError, match="--max_length"):
        HuggingFaceBackend(tiny("bert", "text_embedding"), auto_class="AutoModel", head="none", max_length=4000)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_no_gpu_is_a_clear_refusal() -> None:
    with pytest.raises(LoadError, match="no usable CUDA device"):
        load(tiny("bert", "text_embedding"), "text_embedding", device="cuda")


def test_out_of_memory_is_told_apart() -> None:
    backend = load(tiny("bert", "text_embedding"), "text_embedding")

    def reduce(states: Any, batch: Sequence[Encoding]) -> list[Output]:
        torch.empty(1 << 60, dtype=torch.uint8)  # more than any machine has
        raise AssertionError("an exabyte was allocated")

    with pytest.raises(OutOfMemory):
        backend.forward([Encoding(ids=[1, 2])], reduce)


def test_groups_are_runs_of_equal_neighbours() -> None:
    assert groups_of([3, 3, 5, 2, 2, 2]) == [(0, 2, 3), (6, 1, 5), (11, 3, 2)]
    assert groups_of([]) == []
