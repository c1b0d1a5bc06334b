"""Every architecture and every task over every API: a text alone, in a batch, and in a crowd of other requests.

Each answer is compared with transformers' own for that text alone. What the tasks' parameters mean is compared with
transformers' pipelines for all architectures in tests/tasks, the forward passes by themselves in tests/backends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from tests.conformance.apis import V2, apis, ask, rerank
from tests.conformance.reference import assert_same, encoded, output, prediction, tokenizer
from tests.conformance.serving import Served, start
from tests.models import ARCHITECTURES, MAX_LENGTH, TASKS, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = (
    "The capital of France is {word}.",
    "{word}",
    "{word} met Zoë in São {word}, near the old bank; nobody knew why (3.5 % more)!",
    "I love this {word}, the actors were wonderful.",
    "  two  blanks,\ttab\nnewline: 漢字 🙂 \x00 {word}",
    "{word} {word}",
    "{word} is where the cat sat on the mat" + " and the dog slept near the door" * 30,
)
"""Lengths differ; the last is longer than the models read."""


CASES = [
    pytest.param(
        (architecture, task),
        id=f"{architecture}-{task}",
        marks=[] if architecture == "bert" or TASKS[number % len(TASKS)] == task else pytest.mark.slow,
    )
    for number, architecture in enumerate(ARCHITECTURES)
    for task in TASKS
]
"""All; among the fast ones each architecture has one task, and each task several architectures."""


@dataclass(frozen=True)
class Case:
    path: Path
    task: str
    served: Served

    @property
    def texts(self) -> list[str]:
        """As fill_mask needs them, or with a word instead of the mask, and the empty text."""
        if self.task == "fill_mask":
            return [text.format(word=tokenizer(self.path).mask_token) for text in TEXTS]
        return [text.format(word="Paris") for text in TEXTS] + [""]

    @property
    def asked(self) -> list[str | None]:
        """The answer without parameters, and the numbers that it is made of."""
        return [None] if self.task == "text_embedding" else [None, "return_raw_logits"]

    def expected(self, parameter: str | None) -> list[Any]:
        return [prediction(self.path, self.task, text, parameter) for text in self.texts]


@pytest_asyncio.fixture(
    scope="module",
    loop_scope="module",
    params=CASES,
)
async def case(request: pytest.FixtureRequest) -> AsyncIterator[Case]:
    architecture, task = request.param
    path = tiny(architecture, task)
    async with AsyncExitStack() as stack:
        yield Case(path, task, await start(stack, path, task=task))


def given(parameter: str | None) -> dict[str, bool]:
    return {parameter: True} if parameter else {}


async def test_alone(case: Case, passes: list[list[int]]) -> None:
    for parameter in case.asked:
        expected = case.expected(parameter)
        for index, api in enumerate(apis(case.task)):
            # Each API gets two of the texts, the next one gets the next two.
            for at in (2 * index % len(case.texts), (2 * index + 1) % len(case.texts)):
                answer = await ask(case.served, api, [case.texts[at]], **given(parameter))
                assert_same(answer.predictions, [expected[at]])
    assert {len(lengths) for lengths in passes} == {1}


async def test_in_one_request(case: Case, passes: list[list[int]]) -> None:
    for parameter in case.asked:
        expected = case.expected(parameter)
        for api in apis(case.task):
            passes.clear()
            answer = await ask(case.served, api, case.texts, **given(parameter))
            assert_same(answer.predictions, expected)
            assert any(len(set(lengths)) > 3 for lengths in passes), passes


async def test_in_a_crowd(case: Case, passes: list[list[int]]) -> None:
    """One request a text, all at once, over all APIs, by turns with and without parameters."""
    expected = {parameter: case.expected(parameter) for parameter in case.asked}
    turns = cycle(case.asked)
    crowd = [
        (api, parameter, text, expected[parameter][index])
        for index, text in enumerate(case.texts)
        for api, parameter in zip(apis(case.task), turns, strict=False)
    ]
    answers = await asyncio.gather(
        *(ask(case.served, api, [text], **given(parameter)) for api, parameter, text, _ in crowd)
    )
    for answer, (*_, wanted) in zip(answers, crowd, strict=True):
        assert_same(answer.predictions, [wanted])
    assert sum(map(len, passes)) == len(crowd)
    assert any(len(set(lengths)) > 1 for lengths in passes), passes


async def test_tensors_in_and_out(case: Case) -> None:
    """V2 with input_ids: the network's own answer, with zeros behind a text's end, in as many columns as came."""
    wide = encoded(case.path, case.texts[0], padding="max_length", max_length=40)
    several = tokenizer(case.path)(case.texts, truncation=True, padding=True, return_tensors="pt")
    name = "last_hidden_state" if case.task == "text_embedding" else "logits"
    for inputs, texts in ((wide, case.texts[:1]), (several, case.texts)):
        longest = inputs["input_ids"].shape[1]
        rows = [output(case.path, case.task, text).numpy() for text in texts]
        if case.task != "sequence_classification":
            rows = [np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows]
        for api, infer in V2.items():
            tensors = {name: inputs[name].numpy() for name in ("input_ids", "attention_mask")}
            answer, dropped = await infer(case.served, tensors, {})
            assert list(answer) == [name], api
            np.testing.assert_allclose(answer[name], np.stack(rows), atol=1e-5, rtol=0)
            assert not dropped


@pytest.mark.parametrize("architecture", ARCHITECTURES)
async def test_pairs_and_rerank(architecture: str) -> None:
    path = tiny(architecture, "sequence_classification", num_labels=1)
    query, documents = TEXTS[0].format(word="it"), [text.format(word="Paris") for text in TEXTS] + [""]
    pairs = [(query, document) for document in documents]
    values = [output(path, "sequence_classification", pair).item() for pair in pairs]
    scores = 1 / (1 + np.exp(-np.array(values)))
    async with AsyncExitStack() as stack:
        served = await start(stack, path)
        answers = await asyncio.gather(*(ask(served, api, pairs) for api in apis("sequence_classification")))
        ranked = await rerank(served, query, documents)
    for answer in answers:
        assert_same(answer.predictions, values)
        assert answer.dropped > 0
    assert [index for index, _ in ranked] == np.argsort(-scores, kind="stable").tolist()
    np.testing.assert_allclose([score for _, score in ranked], sorted(scores, reverse=True), atol=1e-5, rtol=0)
    assert len(encoded(path, pairs[-2])["input_ids"][0]) == MAX_LENGTH
