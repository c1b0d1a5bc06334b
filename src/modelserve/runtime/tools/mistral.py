"""`[TOOL_CALLS][{"name": …, "arguments": {…}}]`, and the newer `[TOOL_CALLS]name[CALL_ID]id[ARGS]{…}`: Mistral.

In the newer form the id is often left out, sometimes `[ARGS]` too, and each call has a mark of its own.
"""

from __future__ import annotations

import re

from modelserve.runtime.tools.calls import Call, Step, begins_with, blanks, call_of, find, make

_MARK = "[TOOL_CALLS]"
_NAMED = re.compile(r"\s*([\w.\-]+)\s*(?:\[CALL_ID\]\s*(\w+)\s*)?(?:\[ARGS\])?\s*(?=\{)")


class Mistral:
    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        at, found = find(text, _MARK)
        if at:
            return Step(len(text) if last and not found else at)
        if not found:
            return Step(len(text)) if last else None
        start = len(_MARK)
        named = _NAMED.match(text, start)
        begin = blanks(text, named.end() if named else start)
        value, end = begins_with(text, begin) if text[begin : begin + 1] in ("[", "{") else (None, begin)
        if end > begin:
            calls: tuple[Call | None, ...]
            if named:
                calls = (make(named[1], value, named[2]),)
            else:
                calls = tuple(map(call_of, value)) if isinstance(value, list) else (call_of(value),)
            told = tuple(call for call in calls if call is not None)
            return Step(0, told, end) if told and len(told) == len(calls) else Step(end)
        if not last:
            return None
        to, ended = find(text, _MARK, start)
        return Step(to if ended else len(text))
