"""What models of each family write, read whole and split everywhere."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelserve.runtime.tools.calls import Delta
from modelserve.runtime.tools.formats import FORMATS, detect, reader

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "parameters": {
                "type": "object",
                "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "unit": {"type": "string"}},
            },
        },
    }
    for name in ("get_weather", "get_time", "weather.get")
]
PARIS = ("get_weather", {"city": "Paris"})
Found = tuple[str | None, list[tuple[str, Any]]]

RECORDED: list[tuple[str, str, str, list[tuple[str, Any]]]] = [
    # Hermes 2 Pro, Qwen 2.5 and 3
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n</tool_call>', "", [PARIS]),
    (
        "hermes",
        'Let me look.\n<tool_call>\n{"arguments": {"city": "Paris"}, "name": "get_weather"}\n</tool_call>\n'
        '<tool_call>\n{"name": "get_time", "arguments": {}}\n</tool_call>',
        "Let me look.",
        [PARIS, ("get_time", {})],
    ),
    ("hermes", '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Paris"}}\n', "", [PARIS]),
    (
        "hermes",
        '<think>\nI need {"city"}.\n</think>\n\n<tool_call>\n{"name": "get_weather", "arguments": "{\\"city\\": '
        '\\"Paris\\"}"}\n</tool_call>\nDone.',
        '<think>\nI need {"city"}.\n</think>Done.',
        [PARIS],
    ),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": "\\ud83d"}}</tool_call>', "", [("f", {"a": "\ud83d"})]),
    # Qwen 3 Coder
    (
        "hermes",
        "I will look.\n\n<tool_call>\n<function=get_weather>\n<parameter=city>\nParis\n</parameter>\n"
        "<parameter=days>\n3\n</parameter>\n</function>\n</tool_call>",
        "I will look.",
        [("get_weather", {"city": "Paris", "days": 3})],
    ),
    (
        "hermes",
        "<tool_call>\n<function=get_weather>\n<parameter=city>\n12\n34\n</parameter>\n</function>\n</tool_call>",
        "",
        [("get_weather", {"city": "12\n34"})],
    ),
    # Llama 3.1
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    ("llama3_json", '<|python_tag|>{"name": "get_weather", "parameters": {"city": "Paris"}}', "", [PARIS]),
    (
        "llama3_json",
        '{"name": "get_weather", "parameters": {"city": "Paris"}}; {"name": "get_time", "parameters": {}}',
        "",
        [PARIS, ("get_time", {})],
    ),
    (
        "llama3_json",
        '\n\n{"type": "function", "function": "get_weather", "parameters": {"city": "Paris"}}',
        "",
        [PARIS],
    ),
    ("llama3_json", "It is {sunny} in Paris.", "It is {sunny} in Paris.", []),
    ("llama3_json", '{"weather": "sunny"} as told', '{"weather": "sunny"} as told', []),
    ("llama3_json", '<|python_tag|>print("x")', '<|python_tag|>print("x")', []),
    # Llama 3.2
    ("pythonic", "[get_weather(city='Paris'), get_time()]", "", [PARIS, ("get_time", {})]),
    (
        "pythonic",
        '[weather.get(city="It\'s [Paris)]", days=-3, unit=[1.5, {"a": None}, true, (1,)])]',
        "",
        [("weather.get", {"city": "It's [Paris)]", "days": -3, "unit": [1.5, {"a": None}, True, [1]]})],
    ),
    ("pythonic", "[1, 2, 3] are numbers", "[1, 2, 3] are numbers", []),
    ("pythonic", "Look: [get_time()]", "Look: [get_time()]", []),
    ("pythonic", "[get_weather('Paris')]", "[get_weather('Paris')]", []),
    ("pythonic", "[get_weather(city=open('x'))]", "[get_weather(city=open('x'))]", []),
    # Mistral 7B v0.3 to Large, and later ones
    ("mistral", '[TOOL_CALLS] [{"name": "get_weather", "arguments": {"city": "Paris"}}]', "", [PARIS]),
    (
        "mistral",
        'I look.[TOOL_CALLS][{"name": "get_weather", "arguments": {"city": "Paris"}, "id": "a1B2c3D4e"}, '
        '{"name": "get_time", "arguments": {}}]',
        "I look.",
        [PARIS, ("get_time", {})],
    ),
    ("mistral", '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}', "", [PARIS]),
    (
        "mistral",
        '[TOOL_CALLS]get_weather[CALL_ID]a1B2c3D4e[ARGS]{"city": "Paris"}[TOOL_CALLS]get_time{}',
        "",
        [PARIS, ("get_time", {})],
    ),
    ("mistral", '[TOOL_CALLS]f{"a": "[TOOL_CALLS]"}', "", [("f", {"a": "[TOOL_CALLS]"})]),
    # DeepSeek V3, R1 and V3.1
    (
        "deepseek",
        "I look.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>get_weather\n```json\n"
        '{"city": "Paris"}\n```<｜tool▁call▁end｜>\n<｜tool▁call▁begin｜>function<｜tool▁sep｜>get_time\n```json\n{}\n'
        "```<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "I look.",
        [PARIS, ("get_time", {})],
    ),
    (
        "deepseek",
        '<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{"city": "Paris"}<｜tool▁call▁end｜>'
        "<｜tool▁calls▁end｜>",
        "",
        [PARIS],
    ),
]
MALFORMED = [
    ("hermes", '<tool_call>{"name": "get_weather", "arguments": </tool_call> and more'),
    ("hermes", '<tool_call>{"arguments": {}}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": [1]}</tool_call>'),
    ("hermes", '<tool_call>{"name": "f", "arguments": {"a": NaN}}</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "get_weather", "argum'),
    ("hermes", "<tool_call>" + '{"a":' * 5000),
    ("hermes", "<tool_call>\n<function=f>\n<parameter=a>\n1\n</function>\n</tool_call>"),
    ("hermes", "a <tool_ca"),
    ("llama3_json", '{"name": "get_weather", "parameters": {"city": "Par'),
    ("llama3_json", '{"name": 5}\n'),
    ("llama3_json", "  ; ;"),
    ("llama3_json", '<|python_tag|>{"name": "f", "parameters": 5} x'),
    ("pythonic", "[get_weather(city='Paris'), "),
    ("pythonic", "[f(a=1e999)]"),
    ("pythonic", "[f(a={1: 2})]"),
    ("pythonic", "[f(" + "(" * 3000 + ")" * 3000 + ")]"),
    ("mistral", '[TOOL_CALLS][{"name": "get_weather", "argu'),
    ("mistral", '[TOOL_CALLS][{"name": "f", "arguments": {}}, 5] x'),
    ("mistral", "[TOOL_CALLS]get_weather[ARGS] no"),
    ("mistral", "[TOOL_CALLS]5"),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{<｜tool▁call▁end｜><｜tool▁calls▁end｜>"),
    ("deepseek", "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{}"),
]


def read(name: str, parts: Iterable[str]) -> Found:
    found = reader(name, TOOLS)
    assert found is not None
    assert found.grammar is None
    return joined([*(delta for part in parts for delta in found.feed(part)), *found.end()])


def joined(deltas: Iterable[Delta]) -> Found:
    content, names, arguments = "", dict[int, str](), dict[int, str]()
    for delta in deltas:
        if delta.call is None:
            assert delta.content
            content += delta.content
        elif delta.name:
            assert delta.call == len(names)
            assert delta.id
            names[delta.call], arguments[delta.call] = delta.name, ""
        else:
            arguments[delta.call] += delta.arguments
    return content, [(names[index], json.loads(arguments[index])) for index in names]


@pytest.mark.parametrize(("name", "text", "content", "calls"), RECORDED)
def test_recorded(name: str, text: str, content: str, calls: list[tuple[str, Any]]) -> None:
    assert read(name, [text]) == (content, calls)
    assert read(name, text) == (content, calls)
    for at in range(len(text)):
        assert read(name, [text[:at], text[at:]]) == (content, calls)


@pytest.mark.parametrize(("name", "text"), MALFORMED)
def test_malformed_calls_are_content(name: str, text: str) -> None:
    assert read(name, [text]) == (text, [])
    if len(text) < 1000:
        assert read(name, text) == (text, [])


@pytest.mark.parametrize(
    "name",
    [name if name in ("hermes", "pythonic") else pytest.param(name, marks=pytest.mark.slow) for name in FORMATS],
)
@given(data=st.data())
@settings(max_examples=300, deadline=None)
def test_any_text(name: str, data: st.DataObject) -> None:
    """Parts do not matter, and without a call nothing is lost or changed."""
    fragments = sorted(
        {piece for own, text, *_ in RECORDED if own == name for piece in re.findall(r"\w+|\s|\W+?", text)}
    )
    whole = [text for own, text, *_ in RECORDED if own == name]
    parts = data.draw(st.lists(st.one_of(st.sampled_from(fragments), st.sampled_from(whole), st.text(max_size=3))))
    text = "".join(parts)
    found = read(name, [text])
    assert read(name, parts) == found
    assert read(name, text) == found
    if not found[1]:
        assert found[0] == text
    cut = text[: data.draw(st.integers(0, len(text)))]
    assert read(name, cut) == read(name, [cut])


def test_what_is_told_at_once() -> None:
    """Content is not held back longer than a mark is long, a call not longer than it is."""
    found = reader("hermes", TOOLS)
    assert found is not None
    assert found.feed("The weather <") == [Delta("The weather")]
    assert found.feed("b> is") == [Delta(" <b> is")]
    assert found.feed('\n<tool_call>{"name": "get_time", "arguments": {}}</tool_call') == []
    name, arguments = found.feed(">")
    assert (name.call, name.name, arguments.arguments) == (0, "get_time", "{}")
    assert re.fullmatch("call_[0-9a-f]{24}", name.id)


def test_ids() -> None:
    """Mistral's are of nine characters: its own, or made here."""
    found = reader("mistral", TOOLS)
    assert found is not None
    text = '[TOOL_CALLS][{"name": "f", "arguments": {}, "id": "a1B2c3D4e"}, {"name": "g", "arguments": {}}]'
    one, _, two, _ = found.feed(text)
    assert one.id == "a1B2c3D4e"
    assert re.fullmatch("[0-9a-zA-Z]{9}", two.id)


@pytest.mark.parametrize(
    ("template", "name"),
    [
        ("… within <tool_call></tool_call> XML tags …", "hermes"),
        ("{{- '<|python_tag|>' + tool_call.name }}", "llama3_json"),
        ('{"name": function name, "parameters": dictionary of argument name and its value}', "llama3_json"),
        ("[func_name1(params_name1=params_value1, params_name2=params_value2...), func_name2(params)]", "pythonic"),
        ('{{- "[TOOL_CALLS][" }}', "mistral"),
        ("{{'<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>'}}", "deepseek"),
        ("{{ messages[0].content }}", None),
        (None, None),
    ],
)  # fmt: skip
def test_the_format_of_a_template(template: str | None, name: str | None) -> None:
    assert detect(template) == name
    assert (reader(detect(template), TOOLS) is None) == (name is None)


@pytest.mark.parametrize("name", FORMATS)
def test_long_arguments_cost_little(name: str) -> None:
    """Each part that comes is not the whole again: 20000 parts in well under the test's limit."""
    text = {
        "hermes": '<tool_call>{"name": "f", "arguments": {"a": "%s"}}</tool_call>',
        "llama3_json": '{"name": "f", "parameters": {"a": "%s"}}',
        "pythonic": '[f(a="%s")]',
        "mistral": '[TOOL_CALLS]f[ARGS]{"a": "%s"}',
        "deepseek": "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>"
        '{"a": "%s"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>',
    }[name]
    assert read(name, text % ("x, [1]" * 3000)) == ("", [("f", {"a": "x, [1]" * 3000})])
