"""Batching changes no answer: the same text alone, in a crowd, or beside a long one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY

from tests.conformance.apis import APIS, V2, ask
from tests.conformance.reference import assert_same, encoded, output, prediction, tokenizer
from tests.conformance.serving import Serve
from tests.models import TASKS, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

BOTH = ["bert", "deberta-v2"]
"""One that is packed, one that is padded."""

WORDS = ["the", "cat", "sat", "on", "a", "mat", "near", "Paris,", "Zoë", "Müller", "(3.5", "%)", "is", "漢字", "🙂"]
LONG = " ".join(WORDS * 20)
texts = st.text(max_size=60) | st.lists(st.sampled_from(WORDS), max_size=150).map(" ".join)


def passed() -> tuple[float, float]:
    """(forward passes, texts in them) of this process so far, as /metrics tells them."""
    passes, computed = (REGISTRY.get_sample_value(f"modelserve_batch_size_{name}") for name in ("count", "sum"))
    assert passes is not None
    assert computed is not None
    return passes, computed


@pytest.mark.parametrize("architecture", [BOTH[0], pytest.param(BOTH[1], marks=pytest.mark.slow)])
@settings(max_examples=25, deadline=None)
@given(text=texts, others=st.lists(texts, min_size=1, max_size=12), place=st.integers(0, 12))
async def test_batching_changes_no_answer(
    serve: Serve, architecture: str, text: str, others: list[str], place: int
) -> None:
    served = await serve(tiny(architecture, "token_classification"), task="token_classification")

    async def logits(*texts: str) -> list[Any]:
        return (await ask(served, "v1", texts, return_raw_logits=True)).predictions

    (alone,) = await logits(text)
    place = min(place, len(others))
    crowd = [*others[:place], text, *others[place:]]
    for together, index in ((crowd, place), ([LONG, text], 1), ([text, LONG, text], 2)):
        passes, computed = passed()
        answers = await logits(*together)
        assert passed()[1] == computed + len(together)
        assert passed()[0] < passes + len(together)
        assert_same(answers[index], alone)
    requests = await asyncio.gather(*(logits(one) for one in crowd))
    assert_same(requests[place][0], alone)


TEXTS = [
    "The capital of France is {word}.",
    "{word}",
    "{word} met Zoë in São {word}, near the old bank; nobody knew why (3.5 % more)!",
    "I love this {word}, the actors were wonderful.",
    "{word} {word}",
    "{word} is where the cat sat on the mat" + " and the dog slept near the door" * 5,
]


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", [BOTH[0], pytest.param(BOTH[1], marks=pytest.mark.slow)])
async def test_requests_of_every_kind_share_passes(
    serve: Serve, passes: list[list[int]], architecture: str, task: str
) -> None:
    """One text and many, answers, numbers and tensors, over all APIs at once, on two threads and a small budget."""
    budget = 256
    path = tiny(architecture, task)
    served = await serve(path, task=task, threads=2, max_batch_tokens=budget)
    word = tokenizer(path).mask_token if task == "fill_mask" else "Paris"
    texts = [text.format(word=word) for text in TEXTS]
    asked: list[tuple[Coroutine[Any, Any, Any], Any]] = []
    for parameter in [None] if task == "text_embedding" else [None, "return_raw_logits"]:
        given = {parameter: True} if parameter else {}
        expected = [prediction(path, task, text, parameter) for text in texts]
        # The first request keeps the threads busy while the others arrive.
        many = 3 if parameter else 10
        asked.append((ask(served, "grpc-raw", texts * many, **given), expected * many))
        asked.extend(
            (ask(served, api, [text], **given), [wanted])
            for text, wanted in zip(texts, expected, strict=True)
            for api in APIS
        )
    tensors = [
        (infer(served, {"input_ids": encoded(path, text)["input_ids"].numpy()}, {}), output(path, task, text))
        for text in texts
        for infer in V2.values()
    ]
    answers, raw = await asyncio.gather(
        asyncio.gather(*(call for call, _ in asked)), asyncio.gather(*(call for call, _ in tensors))
    )
    for answer, (_, wanted) in zip(answers, asked, strict=True):
        assert_same(answer.predictions, wanted)
    for (answer, _), (_, wanted) in zip(raw, tensors, strict=True):
        (values,) = answer.values()
        np.testing.assert_allclose(values[0], wanted, atol=1e-5, rtol=0)
    computed = sum(len(wanted) for _, wanted in asked) + len(tensors)
    assert sum(map(len, passes)) == computed
    assert len(passes) < computed / 3, passes
    padded = architecture == "deberta-v2"
    costs = [len(lengths) * max(lengths) if padded else sum(lengths) for lengths in passes if len(lengths) > 1]
    assert max(costs) <= budget
    assert any(len(set(lengths)) > 1 for lengths in passes)
