"""The tokenizer against transformers' own, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
import transformers

from modelserve.errors import InvalidRequest, LoadError
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.types import Params, TextPair, TokenIds
from tests.models import ARCHITECTURES, tiny

LONG = "the capital of france is paris and the capital of italy is rome " * 40


def load(path: Path, **kwargs: object) -> Tokenizer:
    return Tokenizer(path, **{"max_length": 32, **kwargs})  # type: ignore[arg-type]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_equals_transformers(architecture: str) -> None:
    path = tiny(architecture)
    ours, theirs = load(path), transformers.AutoTokenizer.from_pretrained(path)
    texts = ["Hello world", "", "Zoë said: café!", LONG, "日本語 🙂"]
    for text, encoding in zip(texts, ours(texts, Params(), offsets=True), strict=True):
        want = theirs(text, truncation=True, max_length=32, return_offsets_mapping=True)
        assert encoding.ids == want["input_ids"]
        assert encoding.offsets == [tuple(pair) for pair in want["offset_mapping"]]
        assert encoding.dropped == len(theirs(text)["input_ids"]) - len(want["input_ids"])
        if "token_type_ids" in theirs.model_input_names:
            assert encoding.type_ids == want["token_type_ids"]
        else:
            assert encoding.type_ids is None


def test_left_truncation_keeps_the_end() -> None:
    path = tiny("bert")
    theirs = transformers.AutoTokenizer.from_pretrained(path, truncation_side="left")
    encoding = load(path)([LONG], Params(truncation="left"))[0]
    assert encoding.ids == theirs(LONG, truncation=True, max_length=32)["input_ids"]


def test_a_pair_is_cut_as_transformers_cuts_it() -> None:
    path = tiny("bert")
    theirs = transformers.AutoTokenizer.from_pretrained(path)
    encoding = load(path)([TextPair("where is paris", LONG)], Params())[0]
    want = theirs("where is paris", LONG, truncation=True, max_length=32)
    assert (encoding.ids, encoding.type_ids) == (want["input_ids"], want["token_type_ids"])


def test_too_long_without_truncation_names_both_lengths() -> None:
    tokenizer = load(tiny("bert"))
    length = len(transformers.AutoTokenizer.from_pretrained(tiny("bert"))(LONG)["input_ids"])
    with pytest.raises(InvalidRequest, match=rf"input 1 has {length} tokens, the model takes at most 32"):
        tokenizer(["short", LONG], Params(truncation=False))


def test_case_is_the_tokenizers_own_unless_told() -> None:
    lower, kept = load(tiny("bert")), load(tiny("bert"), keep_case=True)
    assert lower(["PARIS"], Params())[0].ids == lower(["paris"], Params())[0].ids
    assert kept(["PARIS"], Params())[0].ids != kept(["paris"], Params())[0].ids
    cased = load(tiny("bert", cased=True))
    assert cased(["PARIS"], Params())[0].ids != cased(["paris"], Params())[0].ids


def test_special_tokens_can_be_left_out() -> None:
    tokenizer = load(tiny("bert"), special_tokens=False)
    assert tokenizer(["paris"], Params())[0].ids == tokenizer.ids("paris")
    with pytest.raises(InvalidRequest, match="input 0 has no tokens"):
        tokenizer([""], Params())


def test_type_ids_can_be_added_where_the_tokenizer_has_none() -> None:
    assert load(tiny("distilbert"))(["a b"], Params())[0].type_ids is None
    encoding = load(tiny("distilbert"), type_ids=True)(["a b"], Params())[0]
    assert encoding.type_ids == [0] * len(encoding)


def test_token_ids_are_taken_as_they_are() -> None:
    tokenizer = load(tiny("bert"))
    mixed = tokenizer(["paris", TokenIds([5, 6, 7])], Params())
    assert mixed[1].ids == [5, 6, 7]
    assert mixed[0].ids == tokenizer(["paris"], Params())[0].ids


@pytest.mark.parametrize(("ids", "says"), [([], "no tokens"), ([-1], "-1"), ([10**9], "1000000000")])
def test_token_ids_that_cannot_be(ids: list[int], says: str) -> None:
    with pytest.raises(InvalidRequest, match=says):
        load(tiny("bert"))([TokenIds(ids)], Params())


def test_long_token_ids_keep_their_closing_token() -> None:
    tokenizer = load(tiny("bert"))
    closing = tokenizer([""], Params())[0].ids[-1]
    encoding = tokenizer([TokenIds([9] * 50 + [closing])], Params())[0]
    assert (len(encoding), encoding.ids[-1], encoding.dropped) == (32, closing, 19)
    with pytest.raises(InvalidRequest, match="51 tokens"):
        tokenizer([TokenIds([9] * 51)], Params(truncation=False))


def test_a_directory_without_a_tokenizer(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(LoadError, match="tokenizer"):
        load(tmp_path)
