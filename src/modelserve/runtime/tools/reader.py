"""From a text, as it comes, to its content and its calls. Knows no format; one reader per choice, on the event loop.

A call is told when it is whole: what turns out to be none, or stays unfinished, is content, and nothing is lost but
blanks around calls. What is found does not depend on how the text came in parts.
"""

from __future__ import annotations

from collections.abc import Callable

from modelserve.generation import Grammar
from modelserve.runtime.tools.calls import Call, Delta, Format, Step, new_id


class Reader:
    """Fulfils calls.ToolReader."""

    grammar: Grammar | None = None

    def __init__(self, form: Format, *, make_id: Callable[[], str] = new_id) -> None:
        self._form = form
        self._make_id = make_id
        self._text = ""
        self._fresh = True
        self._blank = ""
        """Blanks that are content if content follows."""
        self._after_call = False
        self._count = 0

    def feed(self, text: str) -> list[Delta]:
        self._text += text
        return self._read(last=False)

    def end(self) -> list[Delta]:
        deltas = self._read(last=True)
        if self._blank and not self._after_call:
            deltas.append(Delta(self._blank))
        self._blank = ""
        return deltas

    def _read(self, *, last: bool) -> list[Delta]:
        deltas: list[Delta] = []
        while self._text:
            step = self._form.step(self._text, fresh=self._fresh, last=last)
            if step is None:
                break
            assert step.content + step.taken > 0, "a format takes something or waits"
            deltas += self._take(step)
        return deltas

    def _take(self, step: Step) -> list[Delta]:
        deltas: list[Delta] = []
        content = self._blank + self._text[: step.content]
        self._text = self._text[step.content + step.taken :]
        if self._after_call:
            content = content.lstrip()
        kept = content.rstrip()
        self._blank = content[len(kept) :]
        if kept:
            self._fresh = self._after_call = False
            deltas.append(Delta(kept))
        for call in step.calls:
            deltas += self._told(call)
        if step.calls:
            self._blank, self._after_call = "", True
        return deltas

    def _told(self, call: Call) -> list[Delta]:
        index = self._count
        self._count += 1
        id = call.id or self._make_id()
        return [Delta(call=index, id=id, name=call.name), Delta(call=index, arguments=call.arguments)]
