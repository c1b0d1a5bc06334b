"""What the ids of a tokenizer stand for: the bytes of each, and how texts are made of them.

Knows no request and no model. One instance serves every thread: what it remembers is only ever added to.

Nearly every tokenizer is local: the bytes that a token adds depend on the token and on whether it is the first, on
nothing else. Then a text is its tokens' bytes, one after the other, and costs nothing to extend. The rest (slow
tokenizers, decoders that look at a neighbour) are decoded in a window that moves with the text.
"""

from __future__ import annotations

import codecs
import json
import string
from collections.abc import Iterable, Sequence
from typing import Any

import tokenizers

_WINDOW = 16
"""Tokens that wait for the rest of a character before they are given as they are: a character has 4 bytes, the rest
is room for tokenizers whose tokens are less than a byte."""


def _each(error: UnicodeError) -> tuple[str, int]:
    """One U+FFFD for each byte, as the ByteFallback decoder has it; `replace` gives one for each broken character."""
    assert isinstance(error, UnicodeDecodeError)
    return "\ufffd" * (error.end - error.start), error.end


codecs.register_error("modelserve-each", _each)


class Vocabulary:
    """The tokens of a transformers tokenizer."""

    def __init__(self, loaded: Any) -> None:
        """loaded: what AutoTokenizer.from_pretrained returned."""
        self._loaded = loaded
        rust = getattr(loaded, "backend_tokenizer", None)
        self._rust: tokenizers.Tokenizer | None = rust if isinstance(rust, tokenizers.Tokenizer) else None
        decoders = _decoders(self._rust) if self._rust else []
        self.special = frozenset(loaded.all_special_ids) | _added(loaded)
        self._byte_level = [decoder["type"] for decoder in decoders] == ["ByteLevel"]
        self._byte_fallback = any(decoder["type"] == "ByteFallback" for decoder in decoders)
        self.broken = "modelserve-each" if self._byte_fallback else "replace"
        """The error handler that shows bytes of no character as this tokenizer does."""
        self.of_bytes = self._byte_level or self._byte_fallback
        """Every text can be written with it."""
        self.local = self._rust is not None and _local(decoders)
        self._bytes: dict[int, bytes] = {}
        self._first: dict[int, bytes] = {}
        bpe = self._rust is not None and type(self._rust.model).__name__ == "BPE"
        despite = getattr(loaded, "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output", False)
        self.cleans = bool(loaded.clean_up_tokenization_spaces) and (not bpe or bool(despite))
        """Spaces before punctuation are taken out of the decoded text (transformers' clean_up_tokenization_spaces)."""
        self._anchor = self._find_anchor()

    def clean(self, text: str) -> str:
        cleaned: str = self._loaded.clean_up_tokenization(text)
        return cleaned

    def token(self, id: int) -> str | None:
        """As the vocabulary spells it; None for an id that is in no vocabulary."""
        if self._rust is not None:
            token: str | None = self._rust.id_to_token(id)
            return token
        known: str | None = self._loaded.convert_ids_to_tokens(id) if 0 <= id < len(self._loaded) else None
        return known

    def raw(self, id: int, *, first: bool = False) -> bytes:
        """What a token adds to a text. first: at its beginning, where most tokenizers drop a space."""
        known = self._first if first else self._bytes
        found = known.get(id)
        if found is None:
            found = known[id] = self._find(id, first)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`, special tokens and all spaces included."""
        if self._rust is not None:
            text: str = self._rust.decode(list(ids), skip_special_tokens=False)
        else:
            text = self._loaded.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)
        return text

    def _find(self, id: int, first: bool) -> bytes:
        token = self.token(id)
        if token is None:
            return b""
        if self._byte_level:
            if all(character in _BYTES for character in token):
                return bytes(_BYTES[character] for character in token)
            return token.encode("utf-8", "replace")
        if self._byte_fallback and (byte := _byte(token)) is not None:
            # A decoder that strips the first space strips this one too.
            return b"" if first and byte == b" " and not self.decode([id]) else byte
        if first:
            return self.decode([id]).encode()
        before = self.decode([self._anchor])
        both = self.decode([self._anchor, id])
        return (both.removeprefix(before) if both.startswith(before) else self.decode([id])).encode()

    def _find_anchor(self) -> int:
        """Any token of plain letters: what comes after it is in the middle of a text."""
        letters = set(string.ascii_letters)
        size = self._rust.get_vocab_size(with_added_tokens=True) if self._rust is not None else len(self._loaded)
        for id in range(size):
            token = self.token(id)
            if id not in self.special and token and set(token) <= letters:
                return id
        return next((id for id in range(size) if id not in self.special), 0)


class ByteText:
    """A text in the making, of a local vocabulary."""

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] = ()) -> None:
        """before: the tokens that the text follows; without any, it is a beginning."""
        self._vocabulary = vocabulary
        self._decoder = codecs.getincrementaldecoder("utf-8")(vocabulary.broken)
        self._started = False
        # As many as a character may have bytes: the first of the new tokens may complete it.
        for id in before[-4:]:
            self.add(id)

    @property
    def waiting(self) -> bool:
        """The last token ended within a character."""
        return bool(self._decoder.getstate()[0])

    def add(self, id: int) -> str:
        raw = self._vocabulary.raw(id, first=not self._started)
        # An id of no token is dropped before decoding, so that the next is still the first.
        self._started = self._started or bool(raw) or self._vocabulary.token(id) is not None
        return self._decoder.decode(raw)

    def end(self) -> str:
        return self._decoder.decode(b"", final=True)


class WindowText:
    """A text in the making, of any vocabulary: the last tokens are decoded with and without the new one."""

    def __init__(self, vocabulary: Vocabulary, before: Sequence[int] = ()) -> None:
        self._vocabulary = vocabulary
        self._ids = [id for id in before[-_WINDOW:] if vocabulary.token(id) is not None]
        self._read = len(self._ids)

    @property
    def waiting(self) -> bool:
        return self._read < len(self._ids)

    def add(self, id: int) -> str:
        if self._vocabulary.token(id) is None:
            return ""  # a row of the network that is no token; slow tokenizers do not decode it
        self._ids.append(id)
        return self._take(self._vocabulary.decode(self._ids), len(self._ids) - self._read > _WINDOW)

    def end(self) -> str:
        return self._take(self._vocabulary.decode(self._ids), True) if self.waiting else ""

    def _take(self, text: str, all: bool) -> str:
        if text.endswith("\ufffd") and not all:
            return ""
        told = self._vocabulary.decode(self._ids[: self._read]) if self._read else ""
        if self._read and len(text) > len(told):
            # Only what is after the tokens already told has to be kept: it is the context of the next.
            del self._ids[: self._read]
        # Tokens of no text are kept as long as the context has none, but not without end.
        del self._ids[: -4 * _WINDOW]
        self._read = len(self._ids)
        return text[len(told) :]


def text_of(vocabulary: Vocabulary, before: Sequence[int] = ()) -> ByteText | WindowText:
    return ByteText(vocabulary, before) if vocabulary.local else WindowText(vocabulary, before)


def _decoders(rust: tokenizers.Tokenizer) -> list[dict[str, Any]]:
    """The steps of its decoder."""
    decoder = json.loads(rust.decoder.__getstate__()) if rust.decoder is not None else None
    if decoder is None:
        return []
    steps: list[dict[str, Any]] = decoder["decoders"] if decoder["type"] == "Sequence" else [decoder]
    return steps


def _local(decoders: Iterable[dict[str, Any]]) -> bool:
    """Whether a token's text depends on nothing but the token and on its being the first."""
    steps = list(decoders)
    types = [step["type"] for step in steps]
    if types in ([], ["ByteLevel"], ["Metaspace"], ["WordPiece"]):
        return True
    for step in steps:
        if step["type"] == "Replace":
            # After Fuse it sees the whole text; one character is replaced the same way in whole and in part.
            if len(step["pattern"].get("String", "")) != 1:
                return False
        elif step["type"] == "Strip":
            if step["start"] > 1 or step["stop"] > 0:
                return False
        elif step["type"] not in ("ByteFallback", "Fuse", "Metaspace"):
            return False
    return "Strip" not in types or "Fuse" in types[: types.index("Strip")]


def _added(loaded: Any) -> frozenset[int]:
    """Added tokens that decoding with skip_special_tokens leaves out, whether or not they have a role."""
    return frozenset(id for id, token in loaded.added_tokens_decoder.items() if token.special)


def _byte(token: str) -> bytes | None:
    """The byte of `<0x0A>`."""
    if len(token) != 6 or not token.startswith("<0x") or not token.endswith(">"):
        return None
    return bytes.fromhex(token[3:5]) if set(token[3:5]) <= set(string.hexdigits) else None


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's: printable bytes stand for themselves, the others for the characters from U+0100 on."""
    plain = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}


_BYTES = _byte_alphabet()
