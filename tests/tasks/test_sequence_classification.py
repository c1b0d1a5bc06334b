"""Sequence classification against transformers' own model and pipeline on the same weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.sequence_classification import SequenceClassification
from modelserve.types import Encoding, Params, TextPair, TokenIds
from tests.models import ARCHITECTURES, SEQUENCE_LABELS, tiny
from tests.tasks.reference import (
    DEFAULTS,
    TEXTS,
    ask,
    build,
    info,
    logits,
    model,
    pretrained_tokenizer,
    reduce,
    tokenizer,
)

AUTO = "AutoModelForSequenceClassification"
NAME = "sequence_classification"


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny("bert", NAME)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_transformers_in_a_crowd(architecture: str) -> None:
    path = tiny(architecture, NAME)
    alone = [logits(path, AUTO, text) for text in TEXTS]
    task = build(path, NAME)
    assert ask(path, task, TEXTS).predictions == [int(row.argmax()) for row in alone]
    answer = ask(path, task, TEXTS, return_raw_logits=True)
    for row, reference in zip(answer.predictions, alone, strict=True):
        np.testing.assert_allclose(list(row.values()), reference, atol=1e-5)
    assert len({tuple(row.values()) for row in answer.predictions}) == len(TEXTS)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_text_pairs(architecture: str) -> None:
    path = tiny(architecture, NAME)
    pairs = [TextPair(text, other) for text, other in zip(TEXTS, reversed(TEXTS), strict=True)]
    answer = ask(path, build(path, NAME), pairs, return_raw_logits=True)
    for row, pair in zip(answer.predictions, pairs, strict=True):
        np.testing.assert_allclose(list(row.values()), logits(path, AUTO, *pair), atol=1e-5)


def test_token_ids_answer_as_their_text(path: Path) -> None:
    task = build(path, NAME)
    ids = [TokenIds(pretrained_tokenizer(path)(text)["input_ids"]) for text in TEXTS]
    by_text, by_ids = (ask(path, task, these, return_raw_logits=True).predictions for these in (TEXTS, ids))
    for one, other in zip(by_text, by_ids, strict=True):
        assert one == pytest.approx(other, abs=1e-6)


def test_probabilities_have_four_places_for_every_class(path: Path) -> None:
    for task, given in (
        (build(path, NAME, Config(return_probabilities=True)), {}),
        (build(path, NAME), {"return_probabilities": True}),
    ):
        answer = ask(path, task, TEXTS, **given)
        for row, text in zip(answer.predictions, TEXTS, strict=True):
            assert list(row) == ["0", "1", "2"]
            np.testing.assert_allclose(list(row.values()), logits(path, AUTO, text).softmax(-1), atol=6e-5)
            assert all(number == round(number, 4) for number in row.values())
        assert answer.tensor.datatype == "BYTES"
        assert answer.tensor.shape == (len(TEXTS),)
        assert [json.loads(one) for one in answer.tensor.data] == answer.predictions


def test_a_request_overrules_the_servers_flag(path: Path) -> None:
    task = build(path, NAME, Config(return_probabilities=True))
    assert isinstance(ask(path, task, ["Anna"], return_probabilities=False).predictions[0], int)
    raw = ask(path, task, ["Anna"], return_raw_logits=True).predictions[0]
    assert list(raw.values()) == pytest.approx(logits(path, AUTO, "Anna").tolist(), abs=1e-5)


VARIANTS = [
    {},
    {"num_labels": 1},
    {"num_labels": 1, "problem_type": "regression"},
    {"num_labels": 2, "problem_type": "regression"},
    {"num_labels": 4, "problem_type": "multi_label_classification"},
    {"num_labels": 2, "problem_type": "single_label_classification"},
]


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_labels_equal_the_pipeline(variant: dict[str, object]) -> None:
    path = tiny("bert", NAME, **variant)
    reference = pipeline("text-classification", model=model(path, AUTO), tokenizer=pretrained_tokenizer(path))
    task = build(path, NAME)
    best = ask(path, task, TEXTS, return_labels=True)
    assert best.predictions == [_close(row) for row in reference(TEXTS)]
    assert [json.loads(one) for one in best.tensor.data] == best.predictions
    for top_k in (1, 2, 50):
        ranked = ask(path, task, TEXTS, top_k=top_k)
        expected = reference(TEXTS, top_k=top_k)
        assert ranked.predictions == [[_close(row) for row in rows] for rows in expected]
        assert ranked.tensor.shape == (len(TEXTS), len(expected[0]))
        assert [json.loads(one) for one in ranked.tensor.data] == [row for rows in ranked.predictions for row in rows]
    assert (
        ask(path, task, TEXTS, top_k=2, return_labels=True).predictions == ask(path, task, TEXTS, top_k=2).predictions
    )


def _close(row: dict[str, object]) -> dict[str, object]:
    return {"label": row["label"], "score": pytest.approx(row["score"], abs=1e-5)}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_probabilities_are_the_pipelines_scores(variant: dict[str, object]) -> None:
    path = tiny("bert", NAME, **variant)
    task = build(path, NAME)
    names = [f"LABEL_{n}" for n in range(4)] if variant else list(SEQUENCE_LABELS)
    labels = ask(path, task, TEXTS, top_k=9).predictions
    probabilities = ask(path, task, TEXTS, return_probabilities=True).predictions
    for row, scores in zip(probabilities, labels, strict=True):
        assert {names[int(key)]: value for key, value in row.items()} == {
            one["label"]: pytest.approx(one["score"], abs=5.1e-5) for one in scores
        }


@pytest.mark.parametrize("problem_type", [None, "regression"])
def test_one_output_answers_its_value(problem_type: str | None) -> None:
    path = tiny("bert", NAME, num_labels=1, problem_type=problem_type)
    task = build(path, NAME)
    answer = ask(path, task, TEXTS)
    expected = [logits(path, AUTO, text).item() for text in TEXTS]
    np.testing.assert_allclose(answer.predictions, expected, atol=1e-5)
    assert (answer.tensor.datatype, answer.tensor.shape) == ("FP32", (len(TEXTS),))
    assert answer.tensor.data.dtype == np.float32
    np.testing.assert_allclose(answer.tensor.data, expected, atol=1e-5)
    assert [(s.datatype, s.shape) for s in task.output_specs()] == [("FP32", (-1,))]


def test_several_values_of_a_regression() -> None:
    path = tiny("bert", NAME, num_labels=2, problem_type="regression")
    task = build(path, NAME)
    answer = ask(path, task, TEXTS)
    expected = torch.stack([logits(path, AUTO, text) for text in TEXTS])
    np.testing.assert_allclose(answer.predictions, expected, atol=1e-5)
    assert (answer.tensor.datatype, answer.tensor.shape) == ("FP32", (len(TEXTS), 2))
    assert [s.shape for s in task.output_specs()] == [(-1, 2)]


def test_default_tensors(path: Path) -> None:
    task = build(path, NAME)
    answer = ask(path, task, TEXTS)
    assert (answer.tensor.datatype, answer.tensor.shape) == ("INT64", (len(TEXTS),))
    assert answer.tensor.data.dtype == np.int64
    assert answer.tensor.data.tolist() == answer.predictions
    assert answer.extra_outputs == []
    assert [(s.name, s.datatype, s.shape) for s in task.output_specs()] == [("output-0", "INT64", (-1,))]
    flagged = build(path, NAME, Config(return_raw_logits=True))
    assert [(s.datatype, s.shape) for s in flagged.output_specs()] == [("BYTES", (-1,))]


def test_a_batch_may_mix_requests(path: Path) -> None:
    task = build(path, NAME)
    asked = [Params(), Params(return_probabilities=True), Params(top_k=2), Params(return_raw_logits=True), Params()]
    encodings = [task.preprocess([text], params)[0] for text, params in zip(TEXTS, asked, strict=False)]
    encodings[-1] = Encoding(encodings[-1].ids, raw=True)
    outputs = reduce(path, task, encodings)
    assert outputs[-1] is None
    for text, params, output, encoding in list(zip(TEXTS, asked, outputs, encodings, strict=False))[:-1]:
        alone = ask(path, task, [text], params).predictions[0]
        value = task.predictions([task.postprocess(output, encoding, params)], [encoding], params)[0]
        for one, other in zip(_numbers(value), _numbers(alone), strict=True):
            assert one == pytest.approx(other, abs=1e-4)


def _numbers(value: object) -> list[object]:
    if isinstance(value, dict):
        return list(value.values())
    return [number for row in value for number in row.values()] if isinstance(value, list) else [value]


class Extremes:
    """A sequence head with logits that overflow a softmax that is not shifted by the largest."""

    lengths = [3, 3, 3]
    groups = [(0, 3, 3)]
    rows = [[1000.0, -1000.0, 0.0], [-100.0, -1.0, -3e38], [88.0, 89.0, 3e38]]

    def __init__(self, dtype: torch.dtype) -> None:
        self._logits = torch.tensor(self.rows).clamp(*((-6e4, 6e4) if dtype == torch.float16 else (None, 3.4e38)))
        self._logits = self._logits.to(dtype)

    def sequence_logits(self) -> torch.Tensor:
        return self._logits


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_scores_of_extreme_logits(path: Path, dtype: torch.dtype) -> None:
    task = build(path, NAME)
    params = Params(return_probabilities=True)
    encodings = [Encoding([1, 2, 3], want="probabilities")] * 3
    outputs = task.reduce(Extremes(dtype), encodings)
    rows = [list(task.postprocess(o, e, params).values()) for o, e in zip(outputs, encodings, strict=True)]
    assert rows == [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("given", "param", "message"),
    [
        ({"targets": ["a"]}, "targets", "targets means nothing to the task sequence_classification"),
        ({"return_offsets_mapping": False}, "return_offsets_mapping", "means nothing"),
        ({"normalize": True}, "normalize", "means nothing"),
        ({"return_probabilities": True, "return_raw_logits": True}, "return_raw_logits", "give one of them"),
        ({"return_labels": True, "return_raw_logits": True}, "return_labels", "give one of them"),
        ({"top_k": 0}, "top_k", "top_k is 0; it must be 1 or more"),
        ({"top_k": -1}, "top_k", "top_k is -1"),
    ],
)
def test_refused(path: Path, given: dict[str, object], param: str, message: str) -> None:
    with pytest.raises(InvalidRequest, match=message) as refused:
        build(path, NAME).preprocess(TEXTS, Params(**given))
    assert refused.value.param == param


def test_truncation_is_for_every_task(path: Path) -> None:
    long = "the cat sat on the mat " * 60
    task = build(path, NAME)
    answer = ask(path, task, [long], truncation=True)
    assert answer.encodings[0].dropped > 0
    assert answer.predictions == [int(logits(path, AUTO, long).argmax())]
    with pytest.raises(InvalidRequest, match="128"):
        task.preprocess([long], Params(truncation=False))


def test_both_flags_are_refused_at_load(path: Path) -> None:
    both = Config(return_probabilities=True, return_raw_logits=True)
    with pytest.raises(LoadError, match="--return_probabilities and --return_raw_logits"):
        SequenceClassification(both, info(path), tokenizer(path))
    assert SequenceClassification(DEFAULTS, info(path), tokenizer(path)).name == NAME
