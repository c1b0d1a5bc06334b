"""Rerank equals sentence-transformers' CrossEncoder on the same directory, in the forms that it was ever written in."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sentence_transformers import CrossEncoder

from tests.conformance.apis import rerank
from tests.conformance.serving import Serve
from tests.models import tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "What is the capital of France?"
DOCUMENTS = ["Paris is the capital of France.", "A cat sat.", "", "The dog slept near the door. " * 40, "PARIS", "Rome"]
LINEAR = "torch.nn.modules.linear.Identity"


def saved(path: Path, architecture: str, **given: Any) -> Path:
    network = tiny(architecture, "sequence_classification", num_labels=1)
    CrossEncoder(str(network), **given).save_pretrained(str(path))
    return path


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def old(path: Path, **config: Any) -> Path:
    """A directory as older releases wrote it: everything in config.json."""
    for name in ("modules.json", "config_sentence_transformers.json", "sentence_bert_config.json"):
        (path / name).unlink()
    rewrite(path / "config.json", **config)
    return path


def made(form: str, path: Path) -> Path:
    match form:
        case "sigmoid":
            return saved(path, "modernbert")
        case "identity":
            return saved(path, "bert", activation_fn=torch.nn.Identity())
        case "tanh":
            return saved(path, "roberta", activation_fn=torch.nn.Tanh())
        case "in config.json":
            return old(saved(path, "bert"), sentence_transformers={"activation_fn": LINEAR, "version": "5.0"})
        case "before release 4":
            return old(saved(path, "bert"), sbert_ce_default_activation_function=LINEAR)
        case _:
            saved(path, "bert")
            rewrite(path / "sentence_bert_config.json", max_seq_length=24)
            return path


@pytest.mark.parametrize(
    "form", ["sigmoid", "identity", "tanh", "in config.json", "before release 4", "max_seq_length"]
)
async def test_equals_sentence_transformers(serve: Serve, tmp_path: Path, form: str) -> None:
    path = made(form, tmp_path / "model")
    reference = CrossEncoder(str(path), device="cpu")
    expected = np.array([reference.predict([(QUERY, document)])[0] for document in DOCUMENTS])
    served = await serve(path)
    answers = await asyncio.gather(*(rerank(served, QUERY, DOCUMENTS) for _ in range(4)))
    for answer in answers:
        assert [index for index, _ in answer] == np.argsort(-expected, kind="stable").tolist()
        np.testing.assert_allclose([score for _, score in answer], sorted(expected, reverse=True), atol=1e-5, rtol=0)
    assert expected.min() < 0 or form in ("sigmoid", "max_seq_length")
