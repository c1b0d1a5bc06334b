"""Trains MiniLM to find the names of people, places and organisations, and saves it as a Hugging Face model directory.

The training text is data/sentences.txt with names from data/names.tsv filled in at random. It is measured on
data/held_out.txt: other sentences with names that are nowhere in the training text, not even one word of them.
Run `python examples/token_classification/train.py --output DIR`.
"""

from __future__ import annotations

import csv
import random
import re
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForTokenClassification, pipeline

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training import SEED, check_held_out, fit, minilm, output_directory, pad, save

DATA = Path(__file__).parent / "data"
LABELS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-ORG", "I-ORG")
ROUNDS = 20
"""How often each training sentence is told, each time with other names."""
ORDINARY = {"new"}
"""Words of held-out names that may be in the training text: they are everyday words outside of a name."""
IGNORED = -100
"""cross_entropy leaves this label out."""


class Span(NamedTuple):
    """A name: its kind (PER, LOC or ORG) and where it stands in the text, in characters."""

    kind: str
    start: int
    end: int


class Sentence(NamedTuple):
    """A text and the names in it, in reading order."""

    text: str
    spans: list[Span]


def lines(name: str) -> list[str]:
    """The lines of a file of data/."""
    return (DATA / name).read_text(encoding="utf-8").splitlines()


def parse(marked: str) -> Sentence:
    """The sentence that is written as `[PER Ada Lovelace] lived in [LOC London].`"""
    text, spans, end = "", [], 0
    for match in re.finditer(r"\[(PER|LOC|ORG) ([^]]+)\]", marked):
        text += marked[end : match.start()]
        spans.append(Span(match[1], len(text), len(text) + len(match[2])))
        text += match[2]
        end = match.end()
    return Sentence(text + marked[end:], spans)


def training_sentences() -> list[Sentence]:
    """Each line of data/sentences.txt ROUNDS times, with names in its slots."""
    choose = random.Random(SEED)
    names: dict[str, list[str]] = {}
    for row in csv.DictReader(lines("names.tsv"), delimiter="\t"):
        names.setdefault(row["kind"], []).append(row["name"])

    def name(slot: re.Match[str]) -> str:
        kind = slot[1]
        if kind == "PER":
            return f"[PER {choose.choice(names['FIRST'])} {choose.choice(names['LAST'])}]"
        return f"[{'PER' if kind in ('FIRST', 'LAST') else kind} {choose.choice(names[kind])}]"

    return [parse(re.sub(r"\{(\w+)\}", name, line)) for _ in range(ROUNDS) for line in lines("sentences.txt")]


def held_out_sentences() -> list[Sentence]:
    """data/held_out.txt. Raises AssertionError if a word of one of its names is in the training text."""
    sentences = [parse(line) for line in lines("held_out.txt")]
    words = {word for line in lines("sentences.txt") + lines("names.tsv") for word in re.findall(r"\w+", line)}
    names = [sentence.text[span.start : span.end] for sentence in sentences for span in sentence.spans]
    check_held_out([word for name in names for word in name.split()], words - ORDINARY)
    return sentences


def main() -> None:
    output = output_directory(__doc__, "build/examples/token_classification")
    training, held_out = training_sentences(), held_out_sentences()
    model, tokenizer = minilm(
        AutoModelForTokenClassification,
        id2label=dict(enumerate(LABELS)),
        label2id={label: index for index, label in enumerate(LABELS)},
    )

    def encode(sentence: Sentence) -> tuple[list[int], list[int]]:
        """(token ids, the index of each token's label)."""
        encoded = tokenizer(sentence.text, return_offsets_mapping=True)
        labels = [LABELS.index("O")] * len(encoded["input_ids"])
        for span in sentence.spans:
            inside = [
                index
                for index, (start, end) in enumerate(encoded["offset_mapping"])
                if span.start <= start < end <= span.end
            ]
            for index in inside:
                labels[index] = LABELS.index(f"{'B' if index == inside[0] else 'I'}-{span.kind}")
        return encoded["input_ids"], labels

    def loss(batch: list[Sentence]) -> torch.Tensor:
        rows, labels = zip(*map(encode, batch), strict=True)
        ids = pad(rows, tokenizer.pad_token_id)
        logits = model(ids, ids != tokenizer.pad_token_id).logits
        return torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), pad(labels, IGNORED).flatten(), ignore_index=IGNORED
        )

    fit(model, loss, training, epochs=1, learning_rate=3e-4)
    # A name that is split into several tokens gets the label of its first one.
    find = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy="first")
    right = found_in_all = names = 0
    for sentence in held_out:
        found = [Span(entity["entity_group"], entity["start"], entity["end"]) for entity in find(sentence.text)]
        right += len(set(found) & set(sentence.spans))
        found_in_all += len(found)
        names += len(sentence.spans)
        for span in sorted(set(found) ^ set(sentence.spans), key=lambda span: span.start):
            print(f"  {'wrong' if span in found else 'missed'}: {span.kind} {sentence.text[span.start : span.end]!r}")
    print(f"{names} held-out names, {found_in_all} found, {right} of them with the right kind and the right span")
    # F1: a name that is found where there is none counts as much as one that is missed.
    save(model, tokenizer, output, 2 * right / (names + found_in_all))


if __name__ == "__main__":
    main()
