"""Trains MiniLM to tell praise from complaint, and saves it as a Hugging Face model directory.

Trained on data/train.tsv, measured on the texts of data/held_out.tsv, none of which is in the first.
Run `python examples/sentiment/train.py --output DIR`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForSequenceClassification

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training import check_held_out, fit, minilm, output_directory, pad, save

DATA = Path(__file__).parent / "data"
LABELS = ("NEGATIVE", "POSITIVE")


class Review(NamedTuple):
    """A text and the index of its label in LABELS."""

    text: str
    label: int


def reviews(name: str) -> list[Review]:
    """The rows of a file of data/."""
    with (DATA / name).open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Review(row["text"], LABELS.index(row["label"])) for row in rows]


def main() -> None:
    output = output_directory(__doc__, "build/examples/sentiment")
    training, held_out = reviews("train.tsv"), reviews("held_out.tsv")
    check_held_out([review.text for review in held_out], [review.text for review in training])
    model, tokenizer = minilm(
        AutoModelForSequenceClassification,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )

    def logits(batch: list[Review]) -> torch.Tensor:
        """[len(batch), len(LABELS)]."""
        ids = pad([tokenizer(review.text)["input_ids"] for review in batch], tokenizer.pad_token_id)
        return model(ids, ids != tokenizer.pad_token_id).logits

    def loss(batch: list[Review]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(logits(batch), torch.tensor([review.label for review in batch]))

    fit(model, loss, training, epochs=8, learning_rate=1e-4)
    with torch.inference_mode():
        found = logits(held_out).argmax(-1).tolist()
    for review, label in zip(held_out, found, strict=True):
        if label != review.label:
            print(f"  wrong: {review.text} -> {LABELS[label]}")
    right = sum(label == review.label for review, label in zip(held_out, found, strict=True))
    print(f"{len(held_out)} held-out texts, {right} labelled rightly")
    save(model, tokenizer, output, right / len(held_out))


if __name__ == "__main__":
    main()
