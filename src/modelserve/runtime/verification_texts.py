"""What a model is asked when it is verified: texts of ours or of the user's, as its task reads them.

Pure functions. Knows no server.
"""

from __future__ import annotations

from collections.abc import Sequence

from modelserve.errors import ConfigError
from modelserve.runtime.greedy import TEXTS as PROMPTS
from modelserve.runtime.heads import GENERATIVE
from modelserve.types import TextPair

Asked = str | TextPair

MASK = "[MASK]"
"""Stands for the tokenizer's own mask in every text."""
_WORDS = 600
"""Of the longest text: more than most models read, and a second's work for those that read more."""

_SENTENCES = (
    "Paris",
    "Hello, world!",
    "The capital of France is Paris.",
    "Maria Rossi works for a bank in Milan, and John Smith lives in New York.",
    "I love this film, the actors were wonderful; I hated the book, the story was boring and bad.",
    "Zoë and René drank café crème in Besançon. ☕",
    "Die Hauptstadt von Österreich ist Wien, und die Schweiz hat keine.",
    "東京は日本の首都であり、世界最大級の都市の一つです。",
    "Москва - столица России, и зимой там холодно.",
    "القاهرة هي عاصمة مصر.",
    "दिल्ली भारत की राजधानी है।",
    "שלום עולם, 한국어 텍스트, ภาษาไทย.",
    "def f(n):\n    return n if n < 2 else f(n - 1) + f(n - 2)  # 1, 1, 2, 3, 5",
    "  spaces,\ttabs and\n\nlines   (3.5 % of 1,200 $)  ",
    "A server answers many requests at once: it sorts them by length and runs them together. " * 4,
)
_MASKED = (
    f"The capital of France is {MASK}.",
    f"{MASK}",
    f"Hello {MASK}, how are you {MASK}?",
    f"Maria works for a {MASK} in Milan.",
    f"Zoë and René drank {MASK} crème in Besançon. ☕",
    f"Die {MASK} von Österreich ist Wien.",
    f"東京は日本の{MASK}です。",
    f"Москва - {MASK} России.",
    f"A {MASK} answers many requests at once: it sorts them by length and runs them together. "
    + "The cat sat on the mat, and the dog slept near the door. " * 4,
)
_PAIRS = (
    TextPair("Who sat on the mat?", "The cat sat on the mat, and the dog slept near the door."),
    TextPair("capital of France", "Paris"),
    TextPair("Wie heißt die Hauptstadt?", "東京は日本の首都であり、世界最大級の都市の一つです。"),
    TextPair("long document", "A server answers many requests at once, and sorts them by length. " * 12),
)


def built_in(task: str, max_length: int) -> list[Asked]:
    """Short, long beyond what the model reads, of several scripts; pairs where a model reads them."""
    if task in GENERATIVE:
        return list(PROMPTS)
    words = ("the quick brown fox jumps over the lazy dog " * (_WORDS // 9 + 1)).split()
    # Every word is a token or more, so that this is cut where the model's limit is below.
    longest = " ".join(words[: min(_WORDS, 2 * max_length)])
    if task == "fill_mask":
        return [*_MASKED, f"{MASK} {longest}"]
    pairs: tuple[Asked, ...] = _PAIRS if task == "sequence_classification" else ()
    return [*_SENTENCES, *pairs, longest]


def given(lines: Sequence[str], task: str) -> list[Asked]:
    """The user's, one a line; for classifiers of texts a tab parts a pair. Raises ConfigError where there are none."""
    texts = [line for line in lines if line.strip()]
    if not texts:
        raise ConfigError("--texts has no text; write one a line")
    if task != "sequence_classification":
        return list(texts)
    return [TextPair(*line.split("\t", 1)) if "\t" in line else line for line in texts]


def with_mask(texts: Sequence[Asked], mask: str) -> list[Asked]:
    """The tokenizer's own mask in place of MASK. Raises ConfigError for a text without one."""
    made = [text.replace(MASK, mask) for text in texts if isinstance(text, str)]
    for number, text in enumerate(made, 1):
        if mask not in text:
            raise ConfigError(f"text {number} of --texts has no mask; write {MASK} where a word is to be found")
    return list(made)
