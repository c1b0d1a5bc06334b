"""From tokens to the text of one choice, as they come.

Knows no engine and no protocol. One Writer per choice, used by one thread at a time (the engine's). A token costs the
same however long the text is.

Two things are held back, and only as long as needed: bytes that are no whole character yet, and text that may be the
beginning of a stop string. What has been given is never taken back.

The text is what the tokens add to the prompt's, as in vLLM: a sentencepiece tokenizer's first word keeps its space
after a prompt, and loses it where there is none (the decoder's side of an encoder-decoder model). transformers'
TextIteratorStreamer decodes the generated ids alone, and loses it always.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from modelserve.generation import Token, WrittenToken
from modelserve.runtime.vocabulary import Vocabulary, text_of


@dataclass(frozen=True, slots=True)
class Written:
    """A further part of the text; tokens only where logprobs were asked for, those whose text has been given."""

    text: str = ""
    tokens: tuple[WrittenToken, ...] = ()
    stopped: str | None = None
    """The stop string that ends the text; nothing may be put after it."""


class Writer:
    """The text of one choice."""

    def __init__(
        self,
        vocabulary: Vocabulary,
        *,
        stop: Sequence[str] = (),
        skip_special: bool = True,
        prompt: Sequence[int] = (),
        logprobs: bool = False,
        offset: int = 0,
    ) -> None:
        """prompt: the ids that the text follows; none for an encoder-decoder model, whose text is a beginning.

        stop: none of them empty. offset: characters of the choice before this text (an echoed prompt).
        """
        self._vocabulary = vocabulary
        self._skipped = vocabulary.special if skip_special else frozenset()
        self._text = text_of(vocabulary, [id for id in prompt[-_CONTEXT:] if id not in self._skipped])
        self._cleaner = Cleaner(vocabulary) if vocabulary.cleans else None
        self._stops = Stops(stop) if stop else None
        self._logprobs = logprobs
        self._first = not any(id not in self._skipped for id in prompt[-_CONTEXT:])
        self._given = offset
        self._waiting: list[tuple[WrittenToken, int]] = []
        """Tokens whose text is held back, and how many characters must have been given before they are."""

    def put(self, token: Token, *, silent: bool = False) -> Written:
        """The next token. silent: it adds nothing to the text whatever it is (the token that ends the choice)."""
        silent = silent or token.id in self._skipped
        if not self._logprobs:
            return Written() if silent else self._give(self._add(token.id))
        start = self._given + self._held
        new = "" if silent else self._add(token.id)
        # A token that ends within a character belongs to the text that the character is in.
        needed = start + len(new) + (not silent and self._text.waiting)
        self._waiting.append((_written(self._vocabulary, token, start, self._first), needed))
        self._first = self._first and silent
        return self._give(new)

    def end(self) -> Written:
        """What is still held back. A stop string may be found in it."""
        rest = self._text.end()
        if self._cleaner is not None:
            rest = self._cleaner.add(rest) + self._cleaner.end()
        return self._give(rest, last=True)

    def _add(self, id: int) -> str:
        new = self._text.add(id)
        return self._cleaner.add(new) if self._cleaner is not None else new

    @property
    def _held(self) -> int:
        """Characters that are known and not given. Where spaces are cleaned up, some of them may still go."""
        return (len(self._stops.held) if self._stops else 0) + (len(self._cleaner.held) if self._cleaner else 0)

    def _give(self, new: str, *, last: bool = False) -> Written:
        stopped = None
        if self._stops is not None:
            new, stopped = self._stops.add(new)
            if last and stopped is None:
                new += self._stops.held
        self._given += len(new)
        if not self._waiting:
            return Written(new, (), stopped)
        return Written(new, self._take(last, stopped is not None), stopped)

    def _take(self, last: bool, stopped: bool) -> tuple[WrittenToken, ...]:
        """The tokens whose text has been given; of a stopped text, those that have a part in it."""
        if last and not stopped:
            count = len(self._waiting)
        elif stopped:
            count = sum(token.offset < self._given for token, _ in self._waiting)
        else:
            count = 0
            while count < len(self._waiting) and self._waiting[count][1] <= self._given:
                count += 1
        taken = tuple(token for token, _ in self._waiting[:count])
        del self._waiting[:count]
        return taken


class Stops:
    """Finds stop strings in a text that comes in parts, wherever the parts begin.

    Which one is found does not depend on the parts: the one that is complete first, the longest of two that are.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._longest = max(map(len, stops))
        self.held = ""
        """The end of the text, which may be the beginning of a stop string."""

    def add(self, new: str) -> tuple[str, str | None]:
        """What can be given of the text, and the stop string that ends it."""
        if not new:
            return "", None
        text = self.held + new
        found = [(at + len(stop), at, stop) for stop in self._stops if (at := text.find(stop)) >= 0]
        if found:
            _, at, stop = min(found)
            self.held = ""
            return text[:at], stop
        keep = self._beginning(text)
        self.held = text[len(text) - keep :]
        return text[: len(text) - keep], None

    def _beginning(self, text: str) -> int:
        """Characters at the end of the text that a stop string may begin with."""
        most = 0
        for stop in self._stops:
            at = text.find(stop[0], max(0, len(text) - len(stop) + 1))
            while at >= 0 and len(text) - at > most:
                if stop.startswith(text[at:]):
                    most = len(text) - at
                    break
                at = text.find(stop[0], at + 1)
        return most


class Cleaner:
    """Takes out spaces before punctuation as the tokenizer does, in a text that comes in parts."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self.held = ""

    def add(self, new: str) -> str:
        text = self.held + new
        cut = _safe(text)
        self.held = text[cut:]
        return self._vocabulary.clean(text[:cut]) if cut else ""

    def end(self) -> str:
        text, self.held = self.held, ""
        return self._vocabulary.clean(text)


def written_prompt(vocabulary: Vocabulary, tokens: Iterable[Token]) -> list[WrittenToken]:
    """The tokens of a scored prompt, at their places in its text without special tokens."""
    writer = Writer(vocabulary, logprobs=True)
    parts = [*(writer.put(token) for token in tokens), writer.end()]
    return [token for part in parts for token in part.tokens]


_CONTEXT = 32
"""Of a prompt's ids, how many are looked at: far more than a character or a window of tokens has, so that a few
special tokens at the end do not hide the text before them."""

_UNSAFE = frozenset(("", "n", "'", "v", "r", "n'", "'v", "'r"))
"""Words that with the space before them, or with an apostrophe that loses its spaces, may be the beginning of what is
cleaned up (" n't", " 've", " ' ")."""


def _safe(text: str) -> int:
    """Up to where a text can be cleaned up on its own: before the last space that follows a harmless word."""
    end = len(text)
    while (space := text.rfind(" ", 0, end)) >= 0:
        if text[text.rfind(" ", 0, space) + 1 : space] not in _UNSAFE:
            return space
        end = space
    return 0


def _written(vocabulary: Vocabulary, token: Token, offset: int, first: bool) -> WrittenToken:
    text, raw = _shown(vocabulary, token.id, first)
    top = tuple((*_shown(vocabulary, id, first), logprob) for id, logprob in token.top)
    return WrittenToken(token.id, text, raw, token.logprob, top, offset)


def _shown(vocabulary: Vocabulary, id: int, first: bool) -> tuple[str, bytes]:
    """A token as a client may read it, and its bytes. Special tokens are named even where the text leaves them out."""
    if id in vocabulary.special:
        name = vocabulary.token(id) or ""
        return name, name.encode()
    raw = vocabulary.raw(id, first=first)
    try:
        return raw.decode(), raw
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw), raw
