"""DeepSeek V3's and R1's calls, with the arguments in a block of code, and those of V3.1, without."""

from __future__ import annotations

import re

from modelserve.runtime.tools.calls import Call, Step, find, make, parse

_OPEN, _CLOSE = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL = re.compile(
    r"\s*<｜tool▁call▁begin｜>(?:function<｜tool▁sep｜>([^\n]+)\n```json\n(.*?)\n```|(.*?)<｜tool▁sep｜>(.*?))\s*<｜tool▁call▁end｜>",
    re.DOTALL,
)


class DeepSeek:
    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        at, found = find(text, _OPEN)
        if at:
            return Step(len(text) if last and not found else at)
        if not found:
            return Step(len(text)) if last else None
        end, closed = find(text, _CLOSE, len(_OPEN))
        if not closed and not last:
            return None
        stop = end if closed else len(text)
        length = stop + len(_CLOSE) if closed else stop
        calls = _calls(text[len(_OPEN) : stop])
        return Step(0, calls, length) if calls else Step(length)


def _calls(text: str) -> tuple[Call, ...] | None:
    """All of them; None if something is no call."""
    found: list[Call] = []
    at = 0
    while (match := _CALL.match(text, at)) is not None:
        call = make(match[1] or match[3], parse(match[2] if match[1] else match[4]))
        if call is None:
            return None
        found.append(call)
        at = match.end()
    return None if text[at:].strip() else tuple(found)
