"""Every request parameter over every API that takes parameters, against transformers' pipelines and tokenizers.

Here the way through the APIs is at stake, on one architecture (`slow`: on all); the tasks by themselves, and what they
refuse, are in tests/tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from tests.conformance.apis import APIS, Refused, apis, ask
from tests.conformance.reference import (
    EXACT,
    ROUNDED,
    assert_same,
    encoded,
    model,
    output,
    prediction,
    tokenizer,
)
from tests.conformance.serving import Serve
from tests.models import ARCHITECTURES, MAX_LENGTH, TASKS, tiny

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    # The pipeline's guess at words where a tokenizer marks none; the server guesses the same.
    pytest.mark.filterwarnings("ignore:Tokenizer does not support real words"),
]

SOME = ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES if name != "bert")]

TEXTS = [
    "The capital of France is Paris.",
    "John Smith met Zoë in São Paulo, near the old bank of New York City; nobody knew why (3.5 % more)!",
    "Anna",
    "I love this film, the actors were wonderful.",
    "",
    "Maria Rossi works for HuggingFace's offices in New-York, Zürich & 漢字 🙂",
]
MASKED = ["The capital of France is {mask}.", "{mask}", "the {mask} sat on the {mask}, {mask} knew why", "a {mask}!"]
PIPELINES = {
    "sequence_classification": "text-classification",
    "token_classification": "token-classification",
    "fill_mask": "fill-mask",
}


def texts_for(path: Path, task: str) -> list[str]:
    return [text.format(mask=tokenizer(path).mask_token) for text in MASKED] if task == "fill_mask" else TEXTS


Reference = Callable[[Path, str, str], Any]
"""(path, task, text) -> the prediction."""


@cache
def pipeline(path: Path, task: str) -> Any:
    return transformers.pipeline(PIPELINES[task], model=model(path, task), tokenizer=tokenizer(path))


def piped(**given: Any) -> Reference:
    """As transformers' pipeline answers."""

    def reference(path: Path, task: str, text: str) -> Any:
        # A list of one text, since the answer to a bare text loses its outer list for some arguments.
        answer = pipeline(path, task)([text], **given)
        return answer[0] if len(answer) == 1 else answer

    return reference


def computed(parameter: str | None = None) -> Reference:
    return lambda path, task, text: prediction(path, task, text, parameter)


def sigmoids(path: Path, task: str, text: str) -> Any:
    return {str(n): value for n, value in enumerate(output(path, task, text).sigmoid().tolist())}


def values(path: Path, task: str, text: str) -> Any:
    numbers = output(path, task, text).tolist()
    return numbers if len(numbers) > 1 else numbers[0]


def by_class(path: Path, task: str, text: str) -> Any:
    return {str(n): value for n, value in enumerate(output(path, task, text).tolist())}


def names(path: Path, task: str, text: str) -> Any:
    id2label = model(path, task).config.id2label
    return [[id2label[number] for number in prediction(path, task, text)[0]]]


def unnormalised(path: Path, task: str, text: str) -> Any:
    return output(path, task, text).mean(0).tolist()


def cut(length: int) -> Reference:
    def reference(path: Path, task: str, text: str) -> Any:
        return torch.nn.functional.normalize(output(path, task, text).mean(0)[:length], dim=-1).tolist()

    return reference


@dataclass(frozen=True)
class Row:
    task: str
    parameters: dict[str, Any]
    reference: Reference
    atol: float = EXACT
    model: dict[str, Any] = field(default_factory=dict)
    """What `tiny` makes of it."""

    def __str__(self) -> str:
        said = [f"{key}={value}" for key, value in {**self.model, **self.parameters}.items()]
        return "-".join([self.task, *said])


def sequence(parameters: dict[str, Any], reference: Reference, atol: float = EXACT, **made: Any) -> Row:
    return Row("sequence_classification", parameters, reference, atol, made)


MULTI = {"num_labels": 4, "problem_type": "multi_label_classification"}
VALUES = {"num_labels": 2, "problem_type": "regression"}
VALUE = {"num_labels": 1, "problem_type": "regression"}
CROSS = {"num_labels": 1}

ROWS = [
    sequence({"return_probabilities": True}, computed("return_probabilities"), ROUNDED),
    sequence({"return_labels": True}, piped()),
    sequence({"top_k": 2}, piped(top_k=2)),
    sequence({"top_k": 99, "return_labels": True}, piped(top_k=99)),
    sequence({}, computed(), **MULTI),
    sequence({"return_probabilities": True}, sigmoids, ROUNDED, **MULTI),
    sequence({"top_k": 4}, piped(top_k=4), **MULTI),
    sequence({}, values, **VALUES),
    sequence({"return_probabilities": True}, by_class, ROUNDED, **VALUES),
    sequence({"top_k": 2}, piped(top_k=2), **VALUES),
    sequence({}, values, **VALUE),
    sequence({"return_labels": True}, piped(), **VALUE),
    sequence({}, values, **CROSS),
    sequence({"return_raw_logits": True}, by_class, **CROSS),
    sequence({"return_probabilities": True}, sigmoids, ROUNDED, **CROSS),
    sequence({"return_labels": True}, piped(), **CROSS),
    Row("token_classification", {"return_probabilities": True}, computed("return_probabilities"), ROUNDED),
    Row("token_classification", {"return_labels": True}, names),
    *(
        Row("token_classification", {"aggregation_strategy": strategy}, piped(aggregation_strategy=strategy))
        for strategy in ("none", "simple", "first", "average", "max")
    ),
    Row("fill_mask", {"return_probabilities": True}, computed("return_probabilities"), ROUNDED),
    Row("fill_mask", {"top_k": 3}, piped(top_k=3)),
    Row("fill_mask", {"targets": ["the", "of", "cat"]}, piped(targets=["the", "of", "cat"])),
    Row("fill_mask", {"targets": ["the", "of", "cat"], "top_k": 2}, piped(targets=["the", "of", "cat"], top_k=2)),
    Row("text_embedding", {"normalize": False}, unnormalised),
    Row("text_embedding", {"dimensions": 8}, cut(8), model={"matryoshka_dimensions": (8, 16)}),
]


@pytest.mark.parametrize("row", ROWS, ids=str)
@pytest.mark.parametrize("architecture", SOME)
async def test_equals_transformers(serve: Serve, architecture: str, row: Row) -> None:
    path = tiny(architecture, row.task, **row.model)
    texts = texts_for(path, row.task)
    expected = [row.reference(path, row.task, text) for text in texts]
    served = await serve(path, task=row.task)
    in_one = [ask(served, api, texts, **row.parameters) for api in APIS]
    each = [ask(served, APIS[i % len(APIS)], [text], **row.parameters) for i, text in enumerate(texts)]
    answers = await asyncio.gather(*in_one, *each)
    for answer in answers[: len(APIS)]:
        assert_same(answer.predictions, expected, row.atol)
    assert_same([answer.predictions[0] for answer in answers[len(APIS) :]], expected, row.atol)


@pytest.mark.parametrize("architecture", SOME)
async def test_offsets(serve: Serve, architecture: str) -> None:
    path = tiny(architecture, "token_classification")
    served = await serve(path, task="token_classification")
    rows = [encoded(path, text, return_offsets_mapping=True)["offset_mapping"][0].numpy() for text in TEXTS]
    longest = max(map(len, rows))
    expected = np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows])
    classes = [prediction(path, "token_classification", text) for text in TEXTS]
    for api in APIS:
        answer = await ask(served, api, TEXTS, return_offsets_mapping=True)
        assert_same(answer.predictions, classes)
        assert list(answer.beside) == ["offset_mapping"]
        np.testing.assert_array_equal(answer.beside["offset_mapping"], expected)


async def test_dimensions_over_openai(serve: Serve) -> None:
    path = tiny("bert", matryoshka_dimensions=(8, 16))
    served = await serve(path)
    expected = [cut(16)(path, "text_embedding", text) for text in TEXTS]
    for api in ("openai", "openai-base64"):
        assert_same((await ask(served, api, TEXTS, dimensions=16)).predictions, expected)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("architecture", SOME)
async def test_truncation(serve: Serve, architecture: str, task: str) -> None:
    path = tiny(architecture, task)
    served = await serve(path, task=task)
    mask = tokenizer(path).mask_token if task == "fill_mask" else "Paris"
    long = f"{mask} is the capital, " + "the cat sat on the mat, " * 40 + f"and {mask} it is"
    short = f"{mask} it is"
    length = len(encoded(path, long, truncation=False)["input_ids"][0])
    left = tokenizer(path, truncation_side="left")
    for parameters, given in (
        ({}, {}),
        ({"truncation": True}, {}),
        ({"truncation": "left"}, {"by": left}),
    ):
        expected = [prediction(path, task, text, **given) for text in (long, short)]
        for api in APIS if parameters else apis(task):
            answer = await ask(served, api, [long, short], **parameters)
            assert_same(answer.predictions, expected)
            assert answer.dropped == length - MAX_LENGTH
            if task == "token_classification" and parameters:
                beside = (await ask(served, api, [long], return_offsets_mapping=True, **parameters)).beside
                offsets = encoded(path, long, return_offsets_mapping=True, **given)["offset_mapping"]
                np.testing.assert_array_equal(beside["offset_mapping"], offsets)
    for api in APIS:
        assert_same((await ask(served, api, [short], truncation=False)).predictions, [prediction(path, task, short)])
        with pytest.raises(Refused, match=rf"input 1 has {length} tokens, the model takes at most {MAX_LENGTH}") as no:
            await ask(served, api, [short, long], truncation=False)
        assert no.value.status in (400, "INVALID_ARGUMENT")


async def test_pairs_are_cut_as_the_tokenizer_cuts_them(serve: Serve) -> None:
    path = tiny("bert", "sequence_classification")
    served = await serve(path, task="sequence_classification")
    words = [" ".join(["the cat sat on the mat"] * count) for count in (1, 14, 40)]
    pairs: Sequence[tuple[str, str]] = [(one, other) for one in words for other in words]
    expected = [prediction(path, "sequence_classification", pair, "return_raw_logits") for pair in pairs]
    for api in APIS:
        assert_same((await ask(served, api, pairs, return_raw_logits=True)).predictions, expected)


async def test_texts_and_pairs_in_one_request(serve: Serve) -> None:
    """Which only V1 can say."""
    path = tiny("bert", "sequence_classification")
    served = await serve(path, task="sequence_classification")
    texts = [TEXTS[0], (TEXTS[0], TEXTS[1]), "", ("", "")]
    expected = [prediction(path, "sequence_classification", text, "return_raw_logits") for text in texts]
    assert_same((await ask(served, "v1", texts, return_raw_logits=True)).predictions, expected)
