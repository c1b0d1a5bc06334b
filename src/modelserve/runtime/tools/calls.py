"""What a text with tool calls is read into. Knows no format and no protocol."""

from __future__ import annotations

import json
import secrets
import string
from dataclasses import dataclass
from typing import Any, Protocol

from modelserve.generation import Grammar


@dataclass(frozen=True, slots=True)
class Delta:
    """A further part of an answer: content where `call` is None, else of that call.

    A call's first part has its id and name; the arguments of all its parts joined are its arguments, a JSON object.
    """

    content: str = ""
    call: int | None = None
    id: str = ""
    name: str = ""
    arguments: str = ""


@dataclass(frozen=True, slots=True)
class Call:
    """A call that was read. arguments: JSON text of an object. id: the model's own, where it wrote one."""

    name: str
    arguments: str
    id: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """What the beginning of a text is: so many characters of content, then so many that are the calls."""

    content: int = 0
    calls: tuple[Call, ...] = ()
    taken: int = 0


class Format(Protocol):
    """How one family of models writes its calls. Functions of the text alone, so that its parts do not matter."""

    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        """What `text` begins with; None where that depends on what follows, never with `last`.

        fresh: nothing but calls and blanks came before. last: nothing follows.
        """


class ToolReader(Protocol):
    """Finds the calls in the text of one choice, as it comes."""

    grammar: Grammar | None
    """What the text is held to, for the reader to understand it."""

    def feed(self, text: str) -> list[Delta]: ...

    def end(self) -> list[Delta]:
        """What was held back."""


def call_of(found: Any) -> Call | None:
    """The call that an object of JSON is, None if it is none."""
    if not isinstance(found, dict):
        return None
    function, id = found.get("function"), found.get("id")
    if isinstance(function, dict):
        found = function
    name = found.get("name", function)
    arguments = found.get("arguments", found.get("parameters", {}))
    if isinstance(arguments, str):
        # Some models write the text of the object.
        arguments = parse(arguments)
    return make(name, arguments, id)


def make(name: Any, arguments: Any, id: Any = "") -> Call | None:
    """A call; None without a name, or with arguments that are no object or cannot be written in JSON."""
    if not isinstance(name, str) or not name.strip() or not isinstance(arguments, dict):
        return None
    try:
        name.encode()
        text = json.dumps(arguments, ensure_ascii=False, allow_nan=False)
        if not _encodes(text):
            text = json.dumps(arguments, allow_nan=False)
    except (ValueError, RecursionError):
        return None
    return Call(name.strip(), text, id if isinstance(id, str) and id.isascii() else "")


def _encodes(text: str) -> bool:
    """Half a character, as JSON can spell it, has no bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def parse(text: str) -> Any:
    """The value of a JSON text; None for one that is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def begins_with(text: str, at: int) -> tuple[Any, int]:
    """The JSON value at `at`, and where it ends; None and `at` where none is whole."""
    try:
        value, end = _DECODER.raw_decode(text, at)
    except (ValueError, RecursionError):
        return None, at
    return value, end


def find(text: str, mark: str, start: int = 0) -> tuple[int, bool]:
    """Where a mark is and True; or False and where the text ends in what may be its beginning (else the end)."""
    at = text.find(mark, start)
    if at >= 0:
        return at, True
    for length in range(min(len(mark) - 1, len(text) - start), 0, -1):
        if mark.startswith(text[-length:]):
            return len(text) - length, False
    return len(text), False


def blanks(text: str, at: int = 0, also: str = "") -> int:
    """Where the blanks after `at` end."""
    return len(text) - len(text[at:].lstrip(string.whitespace + also))


def new_id() -> str:
    return f"call_{secrets.token_hex(12)}"


def short_id() -> str:
    """Nine letters and digits: Mistral's chat templates refuse any other."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(9))


_DECODER = json.JSONDecoder()
