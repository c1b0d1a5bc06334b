"""`<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen 2.5 and 3, and others after them.

Also Qwen 3 Coder's, which has the same marks around `<function=name><parameter=key>value</parameter></function>`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from modelserve.runtime.tools.calls import Call, Step, call_of, find, make, parse

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>(.*?)(?:</function>\s*)?\Z", re.DOTALL)
_PARAMETER = re.compile(r"\s*<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*", re.DOTALL)


class Hermes:
    def __init__(self, types: Mapping[str, Mapping[str, Any]]) -> None:
        """types: of each function the schemas of its parameters; the second form does not write what is a text."""
        self._types = types

    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        at, found = find(text, _OPEN)
        if not found:
            return Step(len(text) if last else at) if last or at else None
        if at:
            return Step(at)
        inside = len(_OPEN)
        end, closed = find(text, _CLOSE, inside)
        if not closed and not last:
            return None
        # The last call may have no closing mark: the model's end token stands for it.
        stop = end if closed else len(text)
        call = self._call(text[inside:stop])
        length = stop + len(_CLOSE) if closed else stop
        return Step(length) if call is None else Step(0, (call,), length)

    def _call(self, text: str) -> Call | None:
        call = call_of(parse(text))
        if call is not None or (match := _FUNCTION.match(text)) is None:
            return call
        name, body = match[1].strip(), match[2]
        arguments: dict[str, Any] = {}
        at = 0
        while (parameter := _PARAMETER.match(body, at)) is not None:
            arguments[parameter[1]] = self._value(name, parameter[1], parameter[2])
            at = parameter.end()
        return make(name, arguments) if not body[at:].strip() else None

    def _value(self, name: str, parameter: str, text: str) -> Any:
        """A text is written as it is; anything else as JSON."""
        schema = self._types.get(name, {}).get(parameter)
        if isinstance(schema, dict) and schema.get("type", "string") == "string" and "anyOf" not in schema:
            return text
        value = parse(text)
        return text if value is None and text.strip() != "null" else value
