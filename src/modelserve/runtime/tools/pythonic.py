"""`[f(a=1), g(b="x")]` as the whole answer: Llama 3.2's and 4's other form, and those of models trained after it.

Read as Python's syntax, of literals only; nothing is evaluated.
"""

from __future__ import annotations

import ast
import re
import warnings
from typing import Any

from modelserve.runtime.tools.calls import Call, Step, blanks, make

_BEGINNING = re.compile(r"\[\s*(?:[A-Za-z_][\w.]*\s*(?:\(.*)?)?\Z", re.DOTALL)
_PART = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|['"()\[\]{}]""", re.DOTALL)
"""A whole text, or a character that begins or ends something."""
_NAMES = {"true": True, "false": False, "null": None}
"""Models mix up JSON's words and Python's."""


class Pythonic:
    def step(self, text: str, *, fresh: bool, last: bool) -> Step | None:
        if not fresh:
            return Step(len(text))
        at = blanks(text)
        if at == len(text):
            return Step(len(text)) if last else None
        if not _BEGINNING.match(text, at):
            return Step(len(text)) if last else Step(at + 1)
        # The list is looked through when it may be closed, not with every part that comes.
        end = _closed(text, at) if last or text.endswith("]") else None
        if end is None:
            return Step(len(text)) if last else None
        calls = _calls(text[at:end])
        return Step(end) if calls is None else Step(0, calls, end)


def _closed(text: str, start: int) -> int | None:
    """Where the list that begins there ends."""
    depth = 0
    for part in _PART.finditer(text, start):
        if part[0] in ("'", '"'):
            return None  # of a text that has not ended
        if part[0] in "([{":
            depth += 1
        elif part[0] in ")]}":
            depth -= 1
            if depth == 0:
                return part.end()
    return None


def _calls(text: str) -> tuple[Call, ...] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # of escapes that Python does not know
            tree = ast.parse(text, mode="eval").body
        if not isinstance(tree, ast.List) or not tree.elts:
            return None
        return tuple(map(_call, tree.elts))
    except (SyntaxError, ValueError, TypeError, RecursionError, MemoryError):  # what ast says of no call
        return None


def _call(node: ast.expr) -> Call:
    """Raises ValueError for what is no call of keyword arguments that JSON has."""
    if not isinstance(node, ast.Call) or node.args:
        raise ValueError("no call by keywords")
    arguments = {}
    for keyword in node.keywords:
        if keyword.arg is None:
            raise ValueError("no keyword")
        arguments[keyword.arg] = _value(keyword.value)
    call = make(ast.unparse(node.func), arguments)
    if call is None:
        raise ValueError("not of JSON")
    return call


def _value(node: ast.expr) -> Any:
    if isinstance(node, ast.Name) and node.id in _NAMES:
        return _NAMES[node.id]
    if isinstance(node, ast.List | ast.Tuple):
        return [_value(each) for each in node.elts]
    if isinstance(node, ast.Dict):
        keys = [None if key is None else ast.literal_eval(key) for key in node.keys]
        if not all(isinstance(key, str) for key in keys):
            raise ValueError("JSON's keys are texts")
        return dict(zip(keys, map(_value, node.values), strict=True))
    value = ast.literal_eval(node)
    if value is not None and not isinstance(value, str | int | float):
        raise ValueError("not of JSON")
    return value
