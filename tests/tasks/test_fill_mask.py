"""Fill mask against transformers' own model and pipeline, and against the answers that KServe gives."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import pipeline

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.fill_mask import FillMask
from modelserve.types import Encoding, Params, TextPair, TokenIds
from tests.models import ARCHITECTURES, tiny
from tests.tasks.reference import ask, build, info, logits, model, pretrained_tokenizer, reduce, tokenizer

AUTO = "AutoModelForMaskedLM"
NAME = "fill_mask"


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny("bert", NAME)


def texts(path: Path) -> list[str]:
    mask = pretrained_tokenizer(path).mask_token
    return [
        f"The capital of France is {mask}.",
        mask,
        f"{mask} met Zoë in {mask}, near the {mask} bank; nobody knew why (3.5 % more)!",
        f"the {mask} sat on the {mask}.",
        f"I love this {mask}, the actors were wonderful",
    ]


def at_masks(path: Path, text: str) -> torch.Tensor:
    """transformers' logits of the masks, [M, V]."""
    tokenizer = pretrained_tokenizer(path)
    ids = torch.tensor(tokenizer(text, truncation=True)["input_ids"])
    return logits(path, AUTO, text)[ids == tokenizer.mask_token_id]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_words_equal_transformers_in_a_crowd(architecture: str) -> None:
    path = tiny(architecture, NAME)
    asked = texts(path)
    answer = ask(path, build(path, NAME), asked)
    expected = [pretrained_tokenizer(path).decode(at_masks(path, text).argmax(-1)) for text in asked]
    assert answer.predictions == expected
    assert len(set(expected)) > 2
    assert (answer.tensor.datatype, answer.tensor.shape) == ("BYTES", (len(asked),))
    assert [word.decode() for word in answer.tensor.data] == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_candidates_equal_the_pipeline(architecture: str) -> None:
    path = tiny(architecture, NAME)
    asked = texts(path)
    task = build(path, NAME)
    reference = pipeline("fill-mask", model=model(path, AUTO), tokenizer=pretrained_tokenizer(path))
    for top_k in (1, 3):
        answer = ask(path, task, asked, top_k=top_k)
        assert answer.predictions == [_close(rows) for rows in reference(asked, top_k=top_k)]
        assert answer.tensor.shape == (len(asked), 3, top_k)
        assert [json.loads(one) for one in answer.tensor.data if one] == list(_flat(answer.predictions))
    vocabulary = sorted(pretrained_tokenizer(path).get_vocab())[-9:]
    for targets in (["the", "of", "the"], ["Paris", "wonderful actors"], vocabulary):
        for given in ({}, {"top_k": 2}):
            answer = ask(path, task, asked, targets=targets, **given)
            assert answer.predictions == [_close(rows) for rows in reference(asked, targets=targets, **given)]


def _flat(rows: Any) -> Iterator[dict[str, Any]]:
    for row in rows:
        yield from [row] if isinstance(row, dict) else _flat(row)


def _close(rows: Any) -> Any:
    if isinstance(rows, list):
        return [_close(row) for row in rows]
    return {**rows, "score": pytest.approx(rows["score"], abs=1e-5)}


@pytest.mark.parametrize("architecture", ["bert", "roberta", "deberta-v2"])
def test_the_whole_vocabulary(architecture: str) -> None:
    path = tiny(architecture, NAME)
    asked = texts(path)
    task = build(path, NAME)
    raw = ask(path, task, asked, return_raw_logits=True)
    probabilities = ask(path, task, asked, return_probabilities=True)
    size = len(pretrained_tokenizer(path))
    keys = [str(number) for number in range(size)]
    for text, logit_rows, probability_rows in zip(asked, raw.predictions, probabilities.predictions, strict=True):
        expected = at_masks(path, text)
        for rows in (logit_rows, probability_rows):
            assert [[list(one) for one in row] for row in rows] == [[[key] for key in keys]] * len(expected)
        numbers = [[one[key] for key, one in zip(keys, row, strict=True)] for row in logit_rows]
        np.testing.assert_allclose(numbers, expected, atol=1e-5)
        strings = [[one[key] for key, one in zip(keys, row, strict=True)] for row in probability_rows]
        assert all(one == f"{float(one):.4f}" for row in strings for one in row)
        np.testing.assert_allclose(np.asarray(strings, dtype=float), expected.softmax(-1), atol=6e-5)
    for answer in (raw, probabilities):
        assert (answer.tensor.datatype, answer.tensor.shape) == ("BYTES", (len(asked), 3, size))
        elements = iter(answer.tensor.data)
        for rows in answer.predictions:
            for row in rows:
                assert [json.loads(next(elements)) for _ in row] == row
            assert {next(elements) for _ in range((3 - len(rows)) * size)} <= {b""}
    flagged = build(path, NAME, Config(return_raw_logits=True))
    assert ask(path, flagged, asked).predictions == raw.predictions
    assert [(s.datatype, s.shape) for s in flagged.output_specs()] == [("BYTES", (-1, -1, size))]
    assert [(s.datatype, s.shape) for s in task.output_specs()] == [("BYTES", (-1,))]


def test_probabilities_are_written_as_python_writes_them(path: Path) -> None:
    ties = [1 / 32, 3 / 32, 5 / 32, 31 / 32, 0.0, 1.0, 0.00005, 0.99995]
    numbers = np.concatenate([ties, np.random.default_rng(0).random(50_000)]).astype(np.float32)
    written = build(path, NAME).postprocess(numbers[None], Encoding([4], want="probabilities"), Params())
    assert written == [[{str(i): f"{number:.4f}"} for i, number in enumerate(numbers.tolist())]]


def test_a_batch_may_mix_requests(path: Path) -> None:
    task = build(path, NAME)
    asked = [Params(), Params(top_k=2), Params(return_raw_logits=True), Params(top_k=2), Params(targets=["the"])]
    encodings = [task.preprocess([text], params)[0] for text, params in zip(texts(path), asked, strict=True)]
    encodings.insert(2, Encoding(encodings[0].ids, raw=True))
    outputs = reduce(path, task, encodings)
    assert outputs.pop(2) is None
    del encodings[2]
    for text, params, output, encoding in zip(texts(path), asked, outputs, encodings, strict=True):
        alone = ask(path, task, [text], params).predictions[0]
        mixed = task.postprocess(output, encoding, params)
        assert mixed == alone if isinstance(alone, str) else _rounded(mixed) == _rounded(alone)
    assert reduce(path, task, [Encoding([2, 3], raw=True)]) == [None]


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return {key: round(one, 3) if isinstance(one, float) else one for key, one in value.items()}


def test_token_ids_answer_as_their_text(path: Path) -> None:
    task = build(path, NAME)
    ids = [TokenIds(pretrained_tokenizer(path)(text)["input_ids"]) for text in texts(path)]
    assert ask(path, task, ids).predictions == ask(path, task, texts(path)).predictions


def test_more_candidates_than_there_are(path: Path) -> None:
    size = len(pretrained_tokenizer(path))
    assert len(ask(path, build(path, NAME), ["[MASK]"], top_k=10 * size).predictions[0]) == size


@pytest.mark.parametrize(
    ("instance", "given", "message"),
    [
        ("the cat sat", {}, r"input 1 has no mask token; write \[MASK\] where"),
        ("the cat sat " * 80 + "[MASK]", {}, r"input 1 has no mask token among the tokens that truncation left"),
        (TextPair("[MASK]", "b"), {}, "fill_mask takes single texts, not pairs of texts"),
        ("[MASK]", {"top_k": 0}, "top_k is 0; it must be 1 or more"),
        ("[MASK]", {"targets": []}, "none of the targets"),
        ("[MASK]", {"targets": ["", " "]}, "none of the targets"),
        ("[MASK]", {"targets": ["a"], "return_probabilities": True}, "give one of them"),
        ("[MASK]", {"return_labels": True}, "return_labels means nothing to the task fill_mask"),
    ],
)
def test_refused(path: Path, instance: Any, given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build(path, NAME).preprocess(["[MASK]", instance], Params(**given))


def test_a_mask_at_the_end_survives_truncation_from_the_left(path: Path) -> None:
    text = "the cat sat " * 80 + "[MASK]"
    answer = ask(path, build(path, NAME), [text], truncation="left")
    assert answer.encodings[0].dropped > 0
    assert answer.encodings[0].ids[-2] == pretrained_tokenizer(path).mask_token_id


def test_a_tokenizer_without_a_mask_is_refused_at_load(path: Path) -> None:
    bare = tokenizer(path).__class__(path, max_length=128)
    bare.mask_token = bare.mask_token_id = None
    with pytest.raises(LoadError, match="no mask token"):
        FillMask(Config(), info(path), bare)
