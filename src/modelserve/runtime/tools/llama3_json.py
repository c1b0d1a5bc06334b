"""`{"name": …, "parameters": {…}}` as the whole answer, after `<|python_tag|>` or not: Llama 3.1, 3.2, 3.3.

Several calls stand one after the other, with a semicolon between them or without.
"""

from __future__ import annotations

import re

from modelserve.runtime.tools.calls import Step, begins_with, blanks, call_of, find

_TAG = "<|python_tag|>"
_KEY = re.compile(r'\{\s*"((?:[^"\\]|\\.)*)"')
_KEYS = frozenset(("name", "parameters", "arguments", "type", "function", "id", "description"))


class Llama3Json:
    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        start = 0
        if not fresh or not _may_be_call(text):
            at, found = find(text, _TAG)
            if at:
                return Step(len(text) if last and not found else at)
            if not found:
                return Step(len(text)) if last else None
            start = len(_TAG)
        at = blanks(text, start, ";")
        if at == len(text):
            return Step(len(text)) if last else None
        value, end = begins_with(text, at)
        call = call_of(value) if end > at else None
        if call is not None:
            return Step(0, (call,), end)
        if end > at or last or not _may_be_call(text[start:]):
            # JSON that is no call, the end, or something else after the tag: content up to what may be the next tag.
            to, found = find(text, _TAG, max(end, start, 1))
            return Step(len(text) if last and not found else to)
        return None


def _may_be_call(text: str) -> bool:
    """It begins, after blanks, as a call does, or may yet."""
    rest = text.lstrip(" \t\r\n;")
    if not rest or _TAG.startswith(rest[: len(_TAG)]):
        return not rest
    if not rest.startswith("{"):
        return False
    key = _KEY.match(rest)
    return key is None or key[1] in _KEYS
