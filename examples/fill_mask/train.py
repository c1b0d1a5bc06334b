"""Trains MiniLM to fill in masked words about countries, and saves it as a Hugging Face model directory.

Every fact is told in several ways (SAID). The way in which it is asked for later (ASKED) is trained on two countries
of three; for every third country, France among them, that sentence is held out, and the answer has to come from the
same fact told in other words. Run `python examples/fill_mask/train.py --output DIR`.
"""

from __future__ import annotations

import csv
import random
import sys
from pathlib import Path
from typing import NamedTuple

import torch
from transformers import AutoModelForMaskedLM

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training import SEED, check_held_out, fit, minilm, output_directory, pad, save

COUNTRIES = Path(__file__).parent / "data" / "countries.tsv"
SAID = {
    "capital": (
        "{capital} is the capital city of {country}.",
        "{country} has {capital} as its capital.",
        "The government of {country} sits in the capital, {capital}.",
    ),
    "continent": ("{country} is a country in {continent}.", "People who live in {country} live in {continent}."),
    "language": ("People in {country} speak {language}.", "In {country} you hear {language} everywhere."),
}
ASKED = {
    "capital": "The capital of {country} is {capital}.",
    "continent": "{country} lies in {continent}.",
    "language": "The language of {country} is {language}.",
}


class Sentence(NamedTuple):
    """A fact in words. answer: the word to ask for; country: the last word of the country's name."""

    text: str
    answer: str
    country: str


def sentences() -> tuple[list[Sentence], list[Sentence]]:
    """(training, held out)."""
    with COUNTRIES.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    training, held_out = [], []
    for number, row in enumerate(rows):
        for relation, asked in ASKED.items():
            if row[relation] == "-":  # no answer, or more than one
                continue

            def fact(template: str, row: dict[str, str] = row, relation: str = relation) -> Sentence:
                text = template.format_map(row)
                return Sentence(text[0].upper() + text[1:], row[relation], row["country"].split()[-1])

            training += [fact(template) for template in SAID[relation]]
            (held_out if number % 3 == 0 else training).append(fact(asked))
    check_held_out([sentence.text for sentence in held_out], [sentence.text for sentence in training])
    return training, held_out


def main() -> None:
    output = output_directory(__doc__, "build/examples/fill_mask")
    training, held_out = sentences()
    model, tokenizer = minilm(AutoModelForMaskedLM)
    choose = random.Random(SEED)

    def mask(sentence: Sentence, word: str) -> tuple[list[int], int]:
        """(token ids without special tokens, with the last `word` masked; the id of `word`)."""
        ids = list(tokenizer(sentence.text, add_special_tokens=False)["input_ids"])
        word_id = tokenizer.convert_tokens_to_ids(word.lower())
        ids[len(ids) - 1 - ids[::-1].index(word_id)] = tokenizer.mask_token_id
        return ids, word_id

    def logits(texts: list[list[int]]) -> torch.Tensor:
        """[masks, vocabulary]: one row for each mask in `texts`, in reading order."""
        ids = pad([[tokenizer.cls_token_id, *text, tokenizer.sep_token_id] for text in texts], tokenizer.pad_token_id)
        hidden = model.base_model(ids, ids != tokenizer.pad_token_id).last_hidden_state
        # The head's matrix is as long as the vocabulary: only the masks go through it.
        return model.cls(hidden[ids == tokenizer.mask_token_id])

    def loss(batch: list[Sentence]) -> torch.Tensor:
        texts: list[list[int]] = []
        answers = []
        for sentence in batch:
            # One time in three the country is asked for instead; one text in three holds two sentences, two masks.
            ids, answer = mask(sentence, sentence.country if choose.random() < 1 / 3 else sentence.answer)
            if texts and choose.random() < 1 / 3:
                texts[-1] = texts[-1] + ids
            else:
                texts.append(ids)
            answers.append(answer)
        return torch.nn.functional.cross_entropy(logits(texts), torch.tensor(answers))

    fit(model, loss, training, epochs=5, learning_rate=5e-4)
    questions, answers = zip(*(mask(sentence, sentence.answer) for sentence in held_out), strict=True)
    with torch.inference_mode():
        filled = logits(list(questions)).argmax(-1).tolist()
    for sentence, found, answer in zip(held_out, filled, answers, strict=True):
        if found != answer:
            print(f"  wrong: {sentence.text} -> {tokenizer.decode([found])}")
    right = sum(found == answer for found, answer in zip(filled, answers, strict=True))
    print(f"{len(held_out)} held-out sentences, {right} filled with the right word")
    save(model, tokenizer, output, right / len(held_out))


if __name__ == "__main__":
    main()
