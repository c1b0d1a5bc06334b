"""The examples ask what they have not been told, and keep no bad model."""

import re
from pathlib import Path

import pytest

from examples import training
from examples.fill_mask import train as fill_mask
from examples.sentiment import train as sentiment
from examples.token_classification import train as names
from tests.blocks import ROOT


def test_fill_mask_has_not_read_what_it_is_asked() -> None:
    told, asked = fill_mask.sentences()
    text = "\n".join(sentence.text.lower() for sentence in told)
    assert "the capital of france is paris." in {sentence.text.lower() for sentence in asked}
    assert "the capital of france is" not in text
    # The fact itself is there, in other words.
    assert "paris is the capital city of france." in text
    for sentence in asked:
        assert sentence.text.lower() not in text


def test_sentiment_has_not_read_what_it_is_asked() -> None:
    told = "\n".join(review.text.lower() for review in sentiment.reviews("train.tsv"))
    asked = sentiment.reviews("held_out.tsv")
    assert [review.label for review in asked].count(1) == len(asked) / 2
    for review in asked:
        assert review.text.lower().rstrip(".!") not in told


def test_no_word_of_a_held_out_name_was_read() -> None:
    told = {word for sentence in names.training_sentences() for word in re.findall(r"\w+", sentence.text.lower())}
    asked = names.held_out_sentences()
    words = {word for s in asked for span in s.spans for word in s.text[span.start : span.end].lower().split()}
    assert len(words) > 80
    assert words & told == {"new"}


def test_spans_are_where_the_marks_were() -> None:
    text, spans = names.parse("[PER Ada Lovelace] lived in [LOC London].")
    assert text == "Ada Lovelace lived in London."
    assert [(span.kind, text[span.start : span.end]) for span in spans] == [("PER", "Ada Lovelace"), ("LOC", "London")]


def test_a_leak_is_found() -> None:
    with pytest.raises(AssertionError, match="Rome is old"):
        training.check_held_out(["Rome is old.", "Rome is big."], ["rome is OLD."])


def test_a_bad_model_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="below 80%"):
        training.save(None, None, tmp_path / "model", 0.79)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("example", ["fill_mask", "sentiment", "token_classification"])
def test_links_of_the_page_lead_somewhere(example: str) -> None:
    page = ROOT / "examples" / example / "README.md"
    targets = re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    assert targets
    for target in targets:
        assert (page.parent / target).exists(), target
