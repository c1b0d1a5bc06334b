"""Any sequence of ids of every kind of tokenizer: the pieces join to what the tokenizer decodes."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from itertools import chain
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import ByT5Tokenizer

from modelserve.generation import Token
from modelserve.runtime.vocabulary import Vocabulary, WindowText
from modelserve.runtime.writer import Cleaner, Stops, Writer, Written, written_prompt
from tests.vocabularies import KINDS, TEXT, byte_fallback, byte_level, unigram, unigram_that_cleans

LOCAL = {"byte_level", "byte_fallback", "unigram", "unigram_that_cleans", "word_piece"}


@cache
def vocabulary(kind: str) -> Vocabulary:
    return Vocabulary(KINDS[kind]())


def written(writer: Writer, ids: Sequence[int]) -> list[Written]:
    parts = []
    for id in ids:
        parts.append(writer.put(Token(id)))
        if parts[-1].stopped is not None:
            return parts
    return [*parts, writer.end()]


def text(parts: Sequence[Written]) -> str:
    return "".join(part.text for part in parts)


def any_ids(kind: str) -> st.SearchStrategy[list[int]]:
    """Ids in and above the vocabulary. Of byte_fallback, bytes come as whole characters: in a broken run its decoder
    shows the whole ones as bytes too (test_bytes_of_no_character_do_not_hide_those_that_are)."""
    loaded = KINDS[kind]()
    one = st.integers(0, len(loaded) + 3)
    if kind != "byte_fallback":
        return st.lists(one, max_size=40)
    ordinary = one.filter(lambda id: not str(loaded.convert_ids_to_tokens(id)).startswith("<0x")).map(lambda id: [id])
    spelt = st.characters(codec="utf-8").map(lambda c: [f"<0x{byte:02X}>" for byte in c.encode()])
    whole = spelt.map(loaded.convert_tokens_to_ids)
    return st.lists(st.one_of(ordinary, whole), max_size=30).map(lambda parts: list(chain(*parts)))


def slow(*kinds: str) -> list[Any]:
    return [pytest.param(kind, marks=pytest.mark.slow) for kind in kinds]


@pytest.mark.parametrize("kind", KINDS)
def test_which_are_local(kind: str) -> None:
    assert vocabulary(kind).local == (kind in LOCAL)


@pytest.mark.parametrize("skip", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", KINDS)
def test_any_ids(kind: str, skip: bool) -> None:
    loaded, words = KINDS[kind](), vocabulary(kind)

    @given(any_ids(kind))
    @settings(max_examples=300, deadline=None)
    def check(ids: list[int]) -> None:
        expected = loaded.decode(ids, skip_special_tokens=skip)
        assert text(written(Writer(words, skip_special=skip), ids)) == expected

    check()


@pytest.mark.parametrize("kind", KINDS)
@given(parts=st.lists(st.sampled_from([*TEXT, " ' ", "  ", " n't", "x ' 's .", "é😀", "\n"]), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_texts(kind: str, parts: list[str]) -> None:
    loaded = KINDS[kind]()
    ids = loaded.encode("".join(parts), add_special_tokens=False)
    pieces = written(Writer(vocabulary(kind)), ids)
    assert text(pieces) == loaded.decode(ids, skip_special_tokens=True)
    assert kind in ("word_piece", "suffixed") or "\ufffd" not in text(pieces)


@pytest.mark.slow
@given(st.lists(st.sampled_from(["n", "'", " ", "v", "r", "e", "t", "s", "m", ".", "!", "x", "ab"]), max_size=14))
@settings(max_examples=2000, deadline=None)
def test_spaces_are_cleaned_as_in_the_whole(parts: list[str]) -> None:
    words = vocabulary("unigram_that_cleans")
    cleaner = Cleaner(words)
    assert "".join([*(cleaner.add(part) for part in parts), cleaner.end()]) == words.clean("".join(parts))


@pytest.mark.parametrize("kind", ["byte_level", *slow("byte_fallback", "unigram")])
@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_after_a_prompt_it_is_what_vllm_says(kind: str, data: st.DataObject) -> None:
    loaded = KINDS[kind]()
    prompt, ids = loaded.encode("The café, naïve"), data.draw(any_ids(kind))
    before, both = (loaded.decode(each, skip_special_tokens=True) for each in (prompt, prompt + ids))
    assert before + text(written(Writer(vocabulary(kind), prompt=prompt), ids)) == both


def test_a_space_after_the_prompt_is_kept_and_a_first_one_is_not() -> None:
    ids = byte_fallback().encode("quick", add_special_tokens=False)
    words = vocabulary("byte_fallback")
    assert text(written(Writer(words), ids)) == "quick"
    assert text(written(Writer(words, prompt=byte_fallback().encode("The")), ids)) == " quick"


def test_a_character_that_the_prompt_began() -> None:
    ids = byte_level().encode("\U0001f9ff", add_special_tokens=False)
    assert len(ids) > 2
    assert text(written(Writer(vocabulary("byte_level"), prompt=ids[:2]), ids[2:])) == "\U0001f9ff"


def test_bytes_of_no_character_do_not_hide_those_that_are() -> None:
    loaded = byte_fallback()
    ids = loaded.convert_tokens_to_ids(["<0xE2>", "<0x82>", "<0xAC>", "<0xFF>", "<0xE2>", "<0x82>", "a"])
    assert text(written(Writer(vocabulary("byte_fallback")), ids)) == "€\ufffd\ufffd\ufffda"
    assert loaded.decode(ids) == "\ufffd" * 6 + "a"


@pytest.mark.parametrize("kind", sorted(LOCAL | {"suffixed"}))
def test_no_piece_has_a_part_of_a_character_and_each_comes_at_once(kind: str) -> None:
    """Without stop strings a piece has everything up to the last whole character."""
    loaded, words = KINDS[kind](), vocabulary(kind)
    ids = loaded.encode("".join(TEXT), add_special_tokens=False)
    writer, so_far = Writer(words), ""
    for count, id in enumerate(ids, 1):
        piece = writer.put(Token(id)).text
        assert "\ufffd" not in piece
        so_far += piece
        if not words.cleans:
            # A byte_fallback decoder shows a whole character as bytes while the next is not whole: ours is ahead.
            whole = loaded.decode(ids[:count], skip_special_tokens=True).rstrip("\ufffd")
            assert so_far == whole or (kind == "byte_fallback" and so_far.startswith(whole))


@given(data=st.data())
@settings(max_examples=500, deadline=None)
def test_stop_strings(data: st.DataObject) -> None:
    """Whatever the parts, the text ends where the first of them is complete."""
    letters = st.text("ab c", min_size=1, max_size=4)
    parts = data.draw(st.lists(st.text("ab c", max_size=5), max_size=12))
    stops = data.draw(st.lists(letters, min_size=1, max_size=4))
    whole = "".join(parts)
    ends = [end for end in range(len(whole) + 1) if any(whole[:end].endswith(stop) for stop in stops)]
    search, given_, stopped = Stops(stops), "", None
    for part in parts:
        piece, stopped = search.add(part)
        given_ += piece
        if stopped is not None:
            break
        # Nothing is held that cannot be the beginning of a stop string.
        assert not search.held or any(stop.startswith(search.held) for stop in stops)
    if ends:
        longest = max((stop for stop in stops if whole[: ends[0]].endswith(stop)), key=len)
        assert stopped == longest
        assert given_ + longest == whole[: ends[0]]
    else:
        assert stopped is None
        assert given_ + search.held == whole


@pytest.mark.parametrize("kind", KINDS)
def test_stop_strings_of_a_writer(kind: str) -> None:
    loaded = KINDS[kind]()
    ids = loaded.encode("The quick brown fox jumps over the lazy dog", add_special_tokens=False)
    parts = written(Writer(vocabulary(kind), stop=("fox ju", "lazy")), ids)
    assert text(parts) == "The quick brown "
    assert parts[-1].stopped == "fox ju"
    parts = written(Writer(vocabulary(kind), stop=("dogma",)), ids)
    assert text(parts) == "The quick brown fox jumps over the lazy dog"
    assert parts[-1].stopped is None


def test_a_stop_string_in_what_was_held_back() -> None:
    loaded, words = unigram_that_cleans(), vocabulary("unigram_that_cleans")
    ids = loaded.encode("The dog n", add_special_tokens=False)
    parts = written(Writer(words, stop=("g n",)), ids)
    assert (text(parts), parts[-1].stopped) == ("The do", "g n")


@pytest.mark.parametrize("kind", ["byte_level", *slow("byte_fallback", "unigram", "word_piece"), "suffixed"])
@given(data=st.data())
@settings(max_examples=150, deadline=None)
def test_tokens(kind: str, data: st.DataObject) -> None:
    """Each token once and in order, at its place in the text, and not before its text."""
    loaded = KINDS[kind]()
    whole = data.draw(st.lists(st.sampled_from(TEXT), max_size=2))
    noise = data.draw(st.lists(st.integers(0, len(loaded) - 1), max_size=8))
    ids = loaded.encode("".join(whole), add_special_tokens=False) + noise
    stop = data.draw(st.sampled_from([(), ("quick brown",), ("zzz", "e")]))
    parts = written(Writer(vocabulary(kind), stop=stop, logprobs=True, offset=7), ids)
    tokens = [token for part in parts for token in part.tokens]
    stopped = parts[-1].stopped is not None
    assert [token.id for token in tokens] == ids[: len(tokens)]
    assert len(tokens) == len(ids) or stopped
    joined, given_ = text(parts), 0
    for part in parts:
        given_ += len(part.text)
        assert all(7 <= token.offset <= 7 + given_ for token in part.tokens)
    if not stopped and vocabulary(kind).local:
        texts = [t for t in tokens if t.id not in vocabulary(kind).special]
        raw = b"".join(token.raw for token in texts)
        if "\ufffd" not in joined:
            assert raw == joined.encode()
            for token in texts:
                if not token.text.startswith("bytes:"):
                    assert joined[token.offset - 7 :].startswith(token.text)


def test_a_character_of_several_tokens() -> None:
    ids = byte_level().encode("a\U0001f9ff", add_special_tokens=False)
    parts = written(Writer(vocabulary("byte_level"), logprobs=True), ids)
    assert [len(part.tokens) for part in parts] == [1, *[0] * (len(ids) - 2), len(ids) - 1, 0]
    tokens = [token for part in parts for token in part.tokens]
    assert {token.offset for token in tokens[1:]} == {1}
    assert tokens[1].text == "bytes:" + "".join(f"\\x{byte:02x}" for byte in tokens[1].raw)
    assert b"".join(token.raw for token in tokens) == "a\U0001f9ff".encode()


def test_likely_tokens_and_the_end_token() -> None:
    loaded = byte_level()
    end, quick = loaded.eos_token_id, loaded.encode(" quick", add_special_tokens=False)[0]
    writer = Writer(vocabulary("byte_level"), logprobs=True, skip_special=False)
    [token] = writer.put(Token(quick, -0.5, ((quick, -0.5), (end, -1.0)))).tokens
    assert token.text == loaded.decode([quick])
    assert token.top == ((token.text, token.raw, -0.5), ("</s>", b"</s>", -1.0))
    part = writer.put(Token(end, -0.1), silent=True)
    assert (part.text, [token.text for token in part.tokens]) == ("", ["</s>"])


def test_a_stopped_text_has_the_tokens_that_are_in_it() -> None:
    loaded = byte_level()
    ids = loaded.encode("The quick brown fox", add_special_tokens=False)
    parts = written(Writer(vocabulary("byte_level"), stop=("brown fo",), logprobs=True), ids)
    tokens = [token for part in parts for token in part.tokens]
    assert text(parts) == "The quick "
    assert "".join(token.text for token in tokens).startswith("The quick")
    assert all(token.offset < len("The quick ") for token in tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_scored_prompt(kind: str) -> None:
    loaded = KINDS[kind]()
    ids = [loaded.eos_token_id, *loaded.encode("The quick café.", add_special_tokens=False)]
    tokens = written_prompt(vocabulary(kind), [Token(id, -1.0) for id in ids])
    assert [token.id for token in tokens] == ids
    assert tokens[0].text == "</s>"
    if kind in LOCAL and not vocabulary(kind).cleans:
        whole = loaded.decode(ids, skip_special_tokens=True)
        assert b"".join(token.raw for token in tokens[1:]).decode() == whole
        shown = [token for token in tokens[1:] if not token.text.startswith("bytes:")]
        assert all(whole[token.offset :].startswith(token.text) for token in shown)


def test_a_window_says_the_same() -> None:
    """The way of the tokenizers that are not local, on one that is."""
    ids = unigram().encode("".join(TEXT), add_special_tokens=False)
    window = WindowText(vocabulary("unigram"))
    assert "".join([*map(window.add, ids), window.end()]) == unigram().decode(ids)


@pytest.mark.slow
@given(st.lists(st.integers(0, 390), max_size=40))
@settings(max_examples=300, deadline=None)
def test_a_tokenizer_in_python(ids: list[int]) -> None:
    """byt5's, whose tokens are bytes, and which does not decode rows of the network that are no tokens."""
    loaded = ByT5Tokenizer()
    known = [id for id in ids if id < len(loaded)]
    words = Vocabulary(loaded)
    assert not words.local
    assert text(written(Writer(words, logprobs=True), ids)) == loaded.decode(known, skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["byte_level", "suffixed"])
def test_a_long_text_costs_no_more_for_each_token(kind: str) -> None:
    loaded = KINDS[kind]()
    ids = loaded.encode("".join(TEXT), add_special_tokens=False)

    def cost(times: int) -> float:
        writer = Writer(vocabulary(kind), stop=("\x00",))
        begun = time.perf_counter()
        for id in ids * times:
            writer.put(Token(id))
        return (time.perf_counter() - begun) / times

    cost(1)
    assert min(cost(40) for _ in range(5)) < 4 * max(cost(2) for _ in range(5))
