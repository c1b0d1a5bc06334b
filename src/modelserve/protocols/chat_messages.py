"""The messages and tools of a chat request, checked, as the plain objects that chat templates read.

Templates are written against Hugging Face's conventions: a content is a text, the arguments of a call an object, and
what is absent is no key. Pure functions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from modelserve.errors import InvalidRequest


class Part(msgspec.Struct):
    """A part of a content. Only texts are read here."""

    type: str
    text: str | None = None


class CalledFunction(msgspec.Struct):
    name: str
    arguments: str | dict[str, Any] = ""
    """JSON text of an object."""


class Call(msgspec.Struct):
    """A call that the assistant made before."""

    function: CalledFunction
    id: str | None = None
    type: Literal["function"] = "function"
    index: int | None = None


class Message(msgspec.Struct):
    """One turn. Other keys, as those that an answer's message has, are not shown to the model."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    content: str | list[Part] | None = None
    name: str | None = None
    tool_calls: list[Call] | None = None
    tool_call_id: str | None = None
    reasoning_content: str | None = None


class Function(msgspec.Struct, omit_defaults=True):
    name: Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_.\-]+$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    """A JSON schema of an object."""
    strict: bool | None = None


class Tool(msgspec.Struct):
    """A function that the model may call."""

    type: Literal["function"]
    function: Function


class FunctionName(msgspec.Struct):
    name: str


class NamedTool(msgspec.Struct):
    """The one function that must be called."""

    type: Literal["function"]
    function: FunctionName


ToolChoice = Literal["none", "auto", "required"] | NamedTool


def messages(given: Sequence[Message]) -> list[dict[str, Any]]:
    """As a template reads them. Raises InvalidRequest for content that is no text, and for none where some must be."""
    if not given:
        raise InvalidRequest("messages is empty; it has at least one message.", param="messages")
    return [_message(index, message) for index, message in enumerate(given)]


def _message(index: int, given: Message) -> dict[str, Any]:
    at = f"messages[{index}]"
    content = _content(given.content, at)
    if content is None and not (given.role == "assistant" and given.tool_calls):
        raise InvalidRequest(f"{at} has no content; it is a text or a list of texts.", param=f"{at}.content")
    # OpenAI's newer name of the system's role, which few templates know.
    found: dict[str, Any] = {"role": "system" if given.role == "developer" else given.role, "content": content}
    for name in ("name", "tool_call_id", "reasoning_content"):
        if (value := getattr(given, name)) is not None:
            found[name] = value
    if given.tool_calls:
        found["tool_calls"] = [_call(call, f"{at}.tool_calls[{i}]") for i, call in enumerate(given.tool_calls)]
    return found


def _content(given: str | list[Part] | None, at: str) -> str | None:
    """Parts are lines, as in vLLM."""
    if given is None or isinstance(given, str):
        return given
    for part in given:
        if part.type != "text" or part.text is None:
            raise InvalidRequest(
                f"{at} has a part of type {part.type[:40]!r}; this model reads parts of type text.",
                param=f"{at}.content",
            )
    return "\n".join(part.text or "" for part in given)


def _call(given: Call, at: str) -> dict[str, Any]:
    arguments = given.function.arguments
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments or "{}", type=dict[str, Any])
        except msgspec.DecodeError as error:
            raise InvalidRequest(
                f"{at} has arguments that are not the JSON of an object.", param=f"{at}.function.arguments"
            ) from error
    call: dict[str, Any] = {"type": "function", "function": {"name": given.function.name, "arguments": arguments}}
    return call | ({"id": given.id} if given.id is not None else {})


def tools(given: Sequence[Tool] | None, choice: ToolChoice | None) -> list[dict[str, Any]] | None:
    """Those that the model is told of, None for none. Raises InvalidRequest for a choice of what is not there."""
    forced = isinstance(choice, NamedTool) or choice == "required"
    if not given:
        if forced:
            raise InvalidRequest("tool_choice is only allowed when tools are specified.", param="tool_choice")
        return None
    names = [tool.function.name for tool in given]
    if len(set(names)) < len(names):
        raise InvalidRequest("Two tools have the same name.", param="tools")
    if isinstance(choice, NamedTool) and choice.function.name not in names:
        raise InvalidRequest(
            f"tool_choice names {choice.function.name[:80]!r}; the tools are {', '.join(names)}.", param="tool_choice"
        )
    found: list[dict[str, Any]] | None = msgspec.to_builtins(given) if choice != "none" else None
    return found
