"""Which format a model writes its calls in, and a reader of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modelserve.runtime.tools.calls import Format, ToolReader, new_id, short_id
from modelserve.runtime.tools.deepseek import DeepSeek
from modelserve.runtime.tools.forced import Forced
from modelserve.runtime.tools.hermes import Hermes
from modelserve.runtime.tools.llama3_json import Llama3Json
from modelserve.runtime.tools.mistral import Mistral
from modelserve.runtime.tools.pythonic import Pythonic
from modelserve.runtime.tools.reader import Reader

Tool = dict[str, Any]

FORMATS: dict[str, Callable[[dict[str, dict[str, Any]]], Format]] = {
    "hermes": Hermes,
    "llama3_json": lambda types: Llama3Json(),
    "pythonic": lambda types: Pythonic(),
    "mistral": lambda types: Mistral(),
    "deepseek": lambda types: DeepSeek(),
}
"""By the names of --tool_call_parser."""

_SIGNS = (
    ("[TOOL_CALLS]", "mistral"),
    ("<｜tool▁calls▁begin｜>", "deepseek"),
    ("<tool_call>", "hermes"),
    ("[func_name1(params_name1=params_value1", "pythonic"),
    ("<|python_start|>", "pythonic"),
    ("<|python_tag|>", "llama3_json"),
    ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json"),
)
"""What chat templates say of calls; the first that is there counts."""


def detect(template: str | None) -> str | None:
    """The format that a chat template speaks of; None for none that is known."""
    return next((name for sign, name in _SIGNS if template and sign in template), None)


def reader(
    name: str | None, tools: Sequence[Tool], choice: str | dict[str, Any] = "auto", *, one_call: bool = False
) -> ToolReader | None:
    """A new reader of one choice's text.

    name: the format. choice: auto, required, or {"type": "function", "function": {"name": …}}, one of the tools.
    one_call: where calls are required, one is. None where the format has to be known and is not.
    """
    make_id = short_id if name == "mistral" else new_id
    if choice != "auto":
        named = choice["function"]["name"] if isinstance(choice, dict) else None
        return Forced(tools, named, one_call=one_call, make_id=make_id)
    if name is None:
        return None
    functions = [tool["function"] for tool in tools]
    types = {each["name"]: (each.get("parameters") or {}).get("properties") or {} for each in functions}
    return Reader(FORMATS[name](types), make_id=make_id)
