"""Token classification against transformers' own model, KServe's nesting, and transformers' NER pipeline."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import pipeline

from modelserve.config import Config
from modelserve.errors import InvalidRequest
from modelserve.types import Params, TextPair, TokenIds
from tests.models import ARCHITECTURES, TOKEN_LABELS, tiny
from tests.tasks.reference import TEXTS, ask, build, logits, model, pretrained_tokenizer, reduce

AUTO = "AutoModelForTokenClassification"
NAME = "token_classification"
QUICK = ("bert", "roberta", "deberta-v2")
"""One of each kind of tokenizer."""

STRATEGIES = ("none", "simple", "first", "average", "max")

NER_TEXTS = [
    *TEXTS,
    "HuggingFace's offices in New-York, Zürich & São Paulo: 漢字 unknown ☃ signs!",
    "  two  blanks,\ttab\nnewline  and don't-stop co-operating (Müller/Rossi)...",
    "John Smith John Smith, John; Anna Anna Anna. B-52 I-95",
    "THE CAPITAL OF FRANCE IS PARIS",
    "[MASK] <mask> [SEP] </s> inside a text",
]


@pytest.fixture(scope="module")
def path() -> Path:
    return tiny("bert", NAME)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_transformers_in_a_crowd(architecture: str) -> None:
    path = tiny(architecture, NAME)
    alone = [logits(path, AUTO, text) for text in TEXTS]
    task = build(path, NAME)
    classes = ask(path, task, TEXTS)
    assert classes.predictions == [[row.argmax(-1).tolist()] for row in alone]
    assert len({number for prediction in classes.predictions for number in prediction[0]}) > 2
    for row, reference in zip(ask(path, task, TEXTS, return_raw_logits=True).predictions, alone, strict=True):
        np.testing.assert_allclose([list(token.values()) for token in row], reference, atol=1e-5)


def test_special_tokens_stay_and_padding_goes(path: Path) -> None:
    answer = ask(path, build(path, NAME), TEXTS)
    lengths = [len(pretrained_tokenizer(path)(text)["input_ids"]) for text in TEXTS]
    assert [len(prediction[0]) for prediction in answer.predictions] == lengths
    tensor = answer.tensor
    assert (tensor.datatype, tensor.shape) == ("INT64", (len(TEXTS), 1, max(lengths)))
    assert tensor.data.dtype == np.int64
    for row, prediction, length in zip(tensor.data, answer.predictions, lengths, strict=True):
        assert row[0, :length].tolist() == prediction[0]
        assert (row[0, length:] == -100).all()


@pytest.mark.parametrize("parameter", ["return_probabilities", "return_raw_logits"])
def test_numbers_per_token(path: Path, parameter: str) -> None:
    answer = ask(path, build(path, NAME), TEXTS, **{parameter: True})
    longest = 0
    for row, text in zip(answer.predictions, TEXTS, strict=True):
        reference = logits(path, AUTO, text)
        numbers = [list(token.values()) for token in row]
        if parameter == "return_probabilities":
            np.testing.assert_allclose(numbers, reference.softmax(-1), atol=6e-5)
            assert all(number == round(number, 4) for token in numbers for number in token)
        else:
            np.testing.assert_allclose(numbers, reference, atol=1e-5)
        assert all(list(token) == ["0", "1", "2", "3", "4"] for token in row)
        assert len(row) == len(reference)
        longest = max(longest, len(row))
    assert (answer.tensor.datatype, answer.tensor.shape) == ("BYTES", (len(TEXTS), longest))
    rows = [answer.tensor.data[i : i + longest] for i in range(0, len(answer.tensor.data), longest)]
    for row, prediction in zip(rows, answer.predictions, strict=True):
        assert [json.loads(one) for one in row[: len(prediction)]] == prediction
        assert set(row[len(prediction) :]) <= {b""}
    flagged = build(path, NAME, Config(**{parameter: True}))
    assert ask(path, flagged, TEXTS).predictions == answer.predictions
    assert [(s.datatype, s.shape) for s in flagged.output_specs()] == [("BYTES", (-1, -1))]


def test_names_per_token(path: Path) -> None:
    task = build(path, NAME)
    named, numbered = ask(path, task, TEXTS, return_labels=True), ask(path, task, TEXTS)
    assert named.predictions == [[[TOKEN_LABELS[n] for n in row[0]]] for row in numbered.predictions]
    assert (named.tensor.datatype, named.tensor.shape) == ("BYTES", numbered.tensor.shape)
    expected = [b"" if n == -100 else TOKEN_LABELS[n].encode() for n in numbered.tensor.data.reshape(-1).tolist()]
    assert named.tensor.data == expected


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_offsets(architecture: str) -> None:
    path = tiny(architecture, NAME)
    by_request = ask(path, build(path, NAME), TEXTS, return_offsets_mapping=True)
    flagged = build(path, NAME, Config(return_offsets_mapping=True))
    by_flag = ask(path, flagged, TEXTS)
    expected = pretrained_tokenizer(path)(TEXTS, return_offsets_mapping=True, padding=True, return_tensors="np")
    for answer in (by_request, by_flag):
        (extra,) = answer.extra_outputs
        assert (extra.name, extra.datatype, extra.shape) == (
            "offset_mapping",
            "INT64",
            expected["offset_mapping"].shape,
        )
        assert extra.data.dtype == np.int64
        np.testing.assert_array_equal(extra.data, expected["offset_mapping"])
        assert [tensor.name for tensor in answer.outputs] == ["output-0", "offset_mapping"]
    assert ask(path, flagged, TEXTS, return_offsets_mapping=False).extra_outputs == []
    assert [(s.name, s.shape) for s in flagged.output_specs()] == [
        ("output-0", (-1, 1, -1)),
        ("offset_mapping", (-1, -1, 2)),
    ]


# The pipeline warns that tokenizers without word marks make it guess; ours guesses the same.
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(
    "architecture", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ARCHITECTURES]
)
def test_entities_equal_the_pipeline(architecture: str, strategy: str) -> None:
    for given in ({}, {"seed": 1, "cased": True}):
        path = tiny(architecture, NAME, **given)
        reference = _pipeline(path)(NER_TEXTS, aggregation_strategy=strategy)
        answer = ask(path, build(path, NAME), NER_TEXTS, aggregation_strategy=strategy)
        assert sum(map(len, reference)) > len(NER_TEXTS)
        for ours, theirs in zip(answer.predictions, reference, strict=True):
            assert ours == [_close(entity) for entity in theirs]
        assert json.loads(json.dumps(answer.predictions)) == answer.predictions


# Labels without B- and I-.
@pytest.mark.parametrize("labels", [4, 3])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_labels_equal_the_pipeline(labels: int, strategy: str) -> None:
    path = tiny("bert", NAME, num_labels=labels)
    reference = _pipeline(path)(NER_TEXTS, aggregation_strategy=strategy)
    answer = ask(path, build(path, NAME), NER_TEXTS, aggregation_strategy=strategy)
    for ours, theirs in zip(answer.predictions, reference, strict=True):
        assert ours == [_close(entity) for entity in theirs]


def _pipeline(path: Path) -> Any:
    return pipeline("token-classification", model=model(path, AUTO), tokenizer=pretrained_tokenizer(path))


def _close(entity: dict[str, Any]) -> dict[str, Any]:
    return {**entity, "score": pytest.approx(float(entity["score"]), abs=1e-5)}


def test_entities_as_tensor(path: Path) -> None:
    answer = ask(path, build(path, NAME), NER_TEXTS, aggregation_strategy="simple", return_offsets_mapping=True)
    most = max(map(len, answer.predictions))
    assert (answer.tensor.datatype, answer.tensor.shape) == ("BYTES", (len(NER_TEXTS), most))
    for index, prediction in enumerate(answer.predictions):
        row = answer.tensor.data[index * most : (index + 1) * most]
        assert [json.loads(one) for one in row if one] == prediction
    assert [tensor.name for tensor in answer.outputs] == ["output-0", "offset_mapping"]


def test_no_entity_at_all(path: Path) -> None:
    answer = ask(path, build(path, NAME), [""], aggregation_strategy="simple")
    assert answer.predictions == [[]]
    assert (answer.tensor.shape, answer.tensor.data) == ((1, 0), [])


def test_entities_carry_their_labels_anyway(path: Path) -> None:
    task = build(path, NAME, Config(return_probabilities=True))
    plain = ask(path, task, TEXTS, aggregation_strategy="max")
    assert ask(path, task, TEXTS, aggregation_strategy="max", return_labels=True).predictions == plain.predictions


def test_a_batch_may_mix_requests(path: Path) -> None:
    task = build(path, NAME)
    asked = [
        Params(),
        Params(return_probabilities=True),
        Params(aggregation_strategy="first"),
        Params(return_raw_logits=True),
        Params(return_labels=True),
    ]
    encodings = [task.preprocess([text], params)[0] for text, params in zip(TEXTS, asked, strict=False)]
    outputs = reduce(path, task, encodings)
    for text, params, output, encoding in zip(TEXTS, asked, outputs, encodings, strict=False):
        value = task.predictions([task.postprocess(output, encoding, params)], [encoding], params)
        alone = ask(path, task, [text], params).predictions
        assert _shape(value) == _shape(alone)


def _shape(value: Any) -> Any:
    """The value with its floats rounded."""
    if isinstance(value, list):
        return [_shape(one) for one in value]
    if isinstance(value, dict):
        return {key: _shape(one) for key, one in value.items()}
    return round(value, 3) if isinstance(value, float) else value


def test_token_ids_answer_as_their_text(path: Path) -> None:
    task = build(path, NAME)
    ids = [TokenIds(pretrained_tokenizer(path)(text)["input_ids"]) for text in TEXTS]
    assert ask(path, task, ids).predictions == ask(path, task, TEXTS).predictions


@pytest.mark.parametrize(
    ("instances", "given", "message"),
    [
        ([TextPair("a", "b")], {}, "the task token_classification takes single texts, not pairs of texts"),
        ([TokenIds([2, 3])], {"aggregation_strategy": "none"}, "aggregation_strategy counts characters; send texts"),
        ([TokenIds([2, 3])], {"return_offsets_mapping": True}, "return_offsets_mapping counts characters"),
        (["a"], {"top_k": 2}, "top_k means nothing to the task token_classification"),
        (["a"], {"aggregation_strategy": "max", "return_raw_logits": True}, "give one of them"),
        (["a"], {"return_labels": True, "return_probabilities": True}, "give one of them"),
    ],
)
def test_refused(path: Path, instances: list[Any], given: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidRequest, match=message):
        build(path, NAME).preprocess(instances, Params(**given))
