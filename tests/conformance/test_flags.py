"""What a server's flags and a model's own configuration change, over every API, against transformers told the same."""

from __future__ import annotations

import asyncio
import json
import shutil
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers

from tests.conformance.apis import V2, Refused, apis, ask
from tests.conformance.reference import ROUNDED, assert_same, encoded, model, output, prediction, tokenizer
from tests.conformance.serving import Serve
from tests.models import ARCHITECTURES, TASKS, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [
    "The capital of France is {word}.",
    "In {word} John Smith met Zoë, near the OLD bank of New York City; nobody knew why (3.5 % more)!",
    "Anna and {word}",
    " a  {word}\ttab\nnewline: 漢字 🙂 </s> [SEP] <s>",
    "MARIA {word} Rossi works for HuggingFace in Zürich, " + "and the dog slept near the door " * 30,
]


def texts_for(path: Path, task: str) -> list[str]:
    word = tokenizer(path).mask_token if task == "fill_mask" else "Paris"
    return [text.format(word=word) for text in TEXTS]


def numbers_of(task: str) -> dict[str, bool]:
    """The parameter that answers the numbers behind a class."""
    return {} if task == "text_embedding" else {"return_raw_logits": True}


@dataclass(frozen=True)
class Row:
    """A model, the flags to serve it with, and what tells transformers' tokenizer the same."""

    architecture: str
    task: str
    flags: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    loaded: dict[str, Any] = field(default_factory=dict)
    called: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        said = [f"{key}={value}" for key, value in {**self.model, **self.flags}.items()]
        return "-".join([self.architecture, self.task, *said])


LOWERING = ("bert", "distilbert", "electra", "mpnet", "albert")
UNCASED = {"do_lower_case": False}
NER = "token_classification"
KEEP = {"disable_lower_case": True}

FLAGS = [
    *(Row(architecture, NER, {}, {"cased": True}) for architecture in LOWERING),
    *(Row(architecture, NER, KEEP, {"cased": True}) for architecture in LOWERING),
    *(Row(architecture, NER, KEEP, {}, UNCASED) for architecture in LOWERING),
    *(Row(architecture, NER, KEEP) for architecture in ARCHITECTURES if architecture not in LOWERING),
    *(
        Row(architecture, task, {"disable_special_tokens": True}, {}, {}, {"add_special_tokens": False})
        for architecture, task in zip(ARCHITECTURES, TASKS * 3, strict=False)
    ),
    *(
        Row(architecture, task, {"max_length": 16}, {}, {}, {"max_length": 16})
        for architecture, task in zip(ARCHITECTURES, TASKS[::-1] * 3, strict=False)
    ),
    *(Row(architecture, NER, {"return_token_type_ids": True}) for architecture in ARCHITECTURES),
]
"""Each architecture meets each flag."""

QUICK = ("bert", "roberta")

MODELS = [
    *(Row("modernbert", "sequence_classification", {}, {"classifier_pooling": pooling}) for pooling in ("mean", "cls")),
    *(Row("modernbert", task, {}, {"num_hidden_layers": 5}) for task in TASKS),
    *(Row("deberta-v2", task, {}, {"conv_kernel_size": 3}) for task in TASKS),
    Row("deberta-v2", NER, {}, {"position_biased_input": True, "type_vocab_size": 2, "pos_att_type": "c2p"}),
    Row("deberta-v2", "fill_mask", {}, {"relative_attention": False, "position_biased_input": True}),
    *(Row("distilbert", task, {}, {"sinusoidal_pos_embds": True}) for task in TASKS[:2]),
    *(Row("albert", task, {}, {"num_hidden_groups": 2, "inner_group_num": 2}) for task in TASKS),
    Row("electra", "fill_mask", {}, {"embedding_size": 32}),
    Row("electra", "sequence_classification", {}, {"embedding_size": 32}),
    Row("roberta", "sequence_classification", {}, {"type_vocab_size": 2}),
    Row("bert", "fill_mask", {}, {"tie_word_embeddings": False}),
]
"""Configurations that published models have, and that take another way through the code."""


@pytest.mark.parametrize(
    "row",
    [
        *(row if row.architecture in QUICK else pytest.param(row, marks=pytest.mark.slow) for row in FLAGS),
        *(row if row.task in ("fill_mask", NER) else pytest.param(row, marks=pytest.mark.slow) for row in MODELS),
    ],
    ids=str,
)
async def test_equals_transformers(serve: Serve, row: Row) -> None:
    path = tiny(row.architecture, row.task, **row.model)
    texts, parameters = texts_for(path, row.task), numbers_of(row.task)
    given = {"by": tokenizer(path, **row.loaded), **row.called}
    expected = [prediction(path, row.task, text, next(iter(parameters), None), **given) for text in texts]
    served = await serve(path, task=row.task, **row.flags)
    names = apis(row.task)
    in_one = [ask(served, api, texts, **parameters) for api in names]
    each = [ask(served, names[i % len(names)], [text], **parameters) for i, text in enumerate(texts)]
    answers = await asyncio.gather(*in_one, *each)
    for answer in answers[: len(names)]:
        assert_same(answer.predictions, expected)
    assert_same([answer.predictions[0] for answer in answers[len(names) :]], expected)


@pytest.mark.parametrize(
    ("cased", "flags", "loaded"), [(True, {}, {}), (True, KEEP, {}), (False, KEEP, UNCASED), (False, {}, {})]
)
async def test_entities_of_cased_text(
    serve: Serve, cased: bool, flags: dict[str, bool], loaded: dict[str, bool]
) -> None:
    """Words and character offsets too follow the flag."""
    path = tiny("bert", NER, cased=cased)
    by = tokenizer(path, **loaded)
    reference = transformers.pipeline("token-classification", model=model(path, NER), tokenizer=by)
    texts = texts_for(path, NER)[:-1]
    expected = [reference(text, aggregation_strategy="simple") for text in texts]
    offsets = [encoded(path, text, by=by, return_offsets_mapping=True)["offset_mapping"][0].tolist() for text in texts]
    served = await serve(path, task=NER, **flags)
    for api in apis(NER):
        answer = await ask(served, api, texts, aggregation_strategy="simple", return_offsets_mapping=True)
        assert_same(answer.predictions, expected)
        for row, wanted in zip(answer.beside["offset_mapping"].tolist(), offsets, strict=True):
            assert row[: len(wanted)] == wanted


async def test_a_text_of_no_tokens(serve: Serve) -> None:
    """Without special tokens the empty text has nothing to classify: the caller's mistake, and no one else's."""
    path = tiny("bert", NER)
    served = await serve(path, task=NER, disable_special_tokens=True)
    expected = [prediction(path, NER, TEXTS[0], add_special_tokens=False)]
    for api in apis(NER):
        good, bad = await asyncio.gather(
            ask(served, api, TEXTS[:1]), ask(served, api, ["a", ""]), return_exceptions=True
        )
        assert isinstance(bad, Refused)
        assert "input 1 has no tokens" in str(bad)
        assert bad.status in (400, "INVALID_ARGUMENT")
        assert_same(good.predictions, expected)


@pytest.mark.parametrize("wanted", [False, True])
async def test_token_type_ids_can_be_added(serve: Serve, tmp_path: Path, wanted: bool) -> None:
    """A tokenizer that does not list them, as BERT's of some fine-tuned models, and a network that reads them."""
    path = shutil.copytree(tiny("bert", "sequence_classification"), tmp_path / "model")
    said = json.loads((path / "tokenizer_config.json").read_text())
    said["model_input_names"] = ["input_ids", "attention_mask"]
    (path / "tokenizer_config.json").write_text(json.dumps(said))
    pairs = [(text, other) for text, other in pairwise(TEXTS)]
    expected, other = (
        [
            prediction(path, "sequence_classification", pair, "return_raw_logits", return_token_type_ids=types)
            for pair in pairs
        ]
        for types in (wanted, not wanted)
    )
    assert abs(expected[0]["0"] - other[0]["0"]) > 1e-3
    served = await serve(path, return_token_type_ids=wanted)
    for api in apis("sequence_classification"):
        assert_same((await ask(served, api, pairs, return_raw_logits=True)).predictions, expected)


async def test_token_type_ids_as_tensors(serve: Serve) -> None:
    path = tiny("bert", "sequence_classification")
    served = await serve(path)
    pairs = [(TEXTS[0], TEXTS[1]), ("Anna", "")]
    batch = tokenizer(path)(*map(list, zip(*pairs, strict=True)), padding=True, return_tensors="np")
    expected = np.stack([output(path, "sequence_classification", pair) for pair in pairs])
    for infer in V2.values():
        answer, _ = await infer(served, {name: batch[name].astype(np.int64) for name in batch}, {})
        np.testing.assert_allclose(answer["logits"], expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("flag", ["return_probabilities", "return_raw_logits"])
@pytest.mark.parametrize("task", TASKS[:3])
async def test_the_servers_own_answer(serve: Serve, task: str, flag: str) -> None:
    """A flag answers as its request parameter does, and the request may say otherwise."""
    path = tiny("roberta", task)
    texts = texts_for(path, task)
    served = await serve(path, task=task, **{flag: True})
    for api in apis(task):
        answer = await ask(served, api, texts)
        assert_same(answer.predictions, [prediction(path, task, text, flag) for text in texts], ROUNDED)
        plain = await ask(served, api, texts, **{flag: False})
        assert_same(plain.predictions, [prediction(path, task, text) for text in texts])


@pytest.mark.parametrize(("dtype", "near"), [("float16", 1e-2), ("bfloat16", 1e-1)])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    "architecture", ["bert", *(pytest.param(name, marks=pytest.mark.slow) for name in ("deberta-v2", "modernbert"))]
)
async def test_half_precision_stays_near(serve: Serve, architecture: str, task: str, dtype: str, near: float) -> None:
    """near: relative to the largest number of the exact answer, absolute below 1."""
    path = tiny(architecture, task)
    served = await serve(path, task=task, dtype=dtype)
    assert (await served.http.get("/info")).json()["dtype"] == dtype
    texts, parameters = texts_for(path, task), numbers_of(task)
    expected = [prediction(path, task, text, next(iter(parameters), None)) for text in texts]
    largest = max(output(path, task, text).abs().max().item() for text in texts)
    for api in apis(task):
        answer = await ask(served, api, texts, **parameters)
        assert_same(answer.predictions, expected, near * max(1.0, largest))
