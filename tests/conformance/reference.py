"""What the answer must be: transformers on the same weights, one text at a time, no padding, no batch.

Predictions are nested as V1 nests them. Pipelines, where there is one for what is asked, are in the tests themselves.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from tests.conformance.apis import Text

AUTO = {
    "sequence_classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
    "fill_mask": "AutoModelForMaskedLM",
    "text_embedding": "AutoModel",
}
EXACT, ROUNDED = 1e-5, 6e-5
"""Tolerances: of two forward passes in float32; of probabilities that are written with four places."""


@cache
def model(path: Path, task: str) -> Any:
    return getattr(transformers, AUTO[task]).from_pretrained(path).eval()


@cache
def tokenizer(path: Path, **given: Any) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path, **given)


def encoded(path: Path, text: Text, *, by: Any = None, **given: Any) -> Any:
    """by: another tokenizer than the directory's. given: further arguments of its call."""
    # Lists, since a single empty second text would be taken for none.
    texts = [[text]] if isinstance(text, str) else [[one] for one in text]
    return (by or tokenizer(path))(*texts, return_tensors="pt", **{"truncation": True, **given})


def output(path: Path, task: str, text: Text, **given: Any) -> torch.Tensor:
    """The network's logits, or last hidden state: [C], [L, C] or [L, H]."""
    with torch.inference_mode():
        return model(path, task)(**encoded(path, text, **given))[0][0]


def prediction(path: Path, task: str, text: Text, parameter: str | None = None, **given: Any) -> Any:
    """The answer to one text; parameter: return_probabilities or return_raw_logits."""
    rows = output(path, task, text, **given)
    if task == "text_embedding":
        return torch.nn.functional.normalize(rows.mean(0), dim=-1).tolist()
    if task == "fill_mask":
        rows = rows[encoded(path, text, **given)["input_ids"][0] == tokenizer(path).mask_token_id]
    if parameter is None:
        best = rows.argmax(-1)
        if task == "fill_mask":
            return tokenizer(path).decode(best)
        return [best.tolist()] if task == "token_classification" else best.item()
    numbers = (rows.softmax(-1) if parameter == "return_probabilities" else rows).tolist()
    if task == "sequence_classification":
        return _by_class(numbers)
    if task == "token_classification":
        return [_by_class(row) for row in numbers]
    return [[{str(token): number} for token, number in enumerate(row)] for row in numbers]


def _by_class(row: list[float]) -> dict[str, float]:
    return {str(number): value for number, value in enumerate(row)}


def assert_same(got: Any, expected: Any, atol: float = EXACT) -> None:
    """Equal in every word, whole number and bracket, and near in every float."""
    got_form, got_numbers = _apart(got)
    form, numbers = _apart(expected)
    assert got_form == form
    np.testing.assert_allclose(got_numbers, numbers, atol=atol, rtol=0)


def _apart(value: Any) -> tuple[Any, list[float]]:
    """The value with its floats taken out, and these. A probability of fill_mask is a string of four places."""
    numbers: list[float] = []

    def form(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: form(one) for key, one in part.items()}
        if isinstance(part, list | tuple):
            return [form(one) for one in part]
        if isinstance(part, float | np.floating) or (isinstance(part, str) and re.fullmatch(r"[01]\.\d{4}", part)):
            numbers.append(float(part))
            return float
        return part

    return form(value), numbers
