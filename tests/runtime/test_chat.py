"""Prompts are what transformers makes of the same messages; what a template does not take is the caller's mistake."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from modelserve.errors import InvalidRequest, LoadError
from modelserve.runtime.chat import Chat
from tests.vocabularies import KINDS

PLAIN = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CHATML = r"""{%- if tools %}{{ "<tools>" }}
{%- for tool in tools %}{{ tool | tojson }}{% endfor %}{{ "</tools>\n" }}{% endif %}
{%- for d in documents or [] %}[{{ d.title }}: {{ d.text }}]{% endfor %}
{%- for message in messages %}
{{- '<|im_start|>' + message.role + '\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{- '<tool_call>{"name": "' + call.function.name + '", "arguments": ' }}
{{- call.function.arguments | tojson + '}</tool_call>' }}
{%- endfor %}
{{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant' + ('<think>' if thinking else '') + '\n' }}{% endif %}"""
STRICT = (
    "{% if messages[0].role != 'user' %}{{ raise_exception('The first message must be from the user') }}{% endif %}"
)
MESSAGES = [{"role": "user", "content": "Où est le café?"}]
TOOLS = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]


def tokenizer(template: str | dict[str, str] | None, kind: str = "byte_level") -> Any:
    loaded = copy.copy(KINDS[kind]())
    loaded.chat_template = template
    return loaded


@pytest.mark.parametrize("kind", ["byte_level", "byte_fallback", "unigram"])
def test_ids(kind: str) -> None:
    loaded = tokenizer(PLAIN, kind)
    ids = Chat(loaded).ids(MESSAGES)
    assert ids == loaded.apply_chat_template(MESSAGES, add_generation_prompt=True)["input_ids"]
    # The template has written it, and the tokenizer does not write it again.
    assert ids.count(loaded.bos_token_id) == 1
    assert ids[0] == loaded.bos_token_id


def test_everything_a_template_reads() -> None:
    calls = [{"type": "function", "function": {"name": "f", "arguments": {"a": [1, "é"]}}}]
    messages = [
        *MESSAGES,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "content": "12", "tool_call_id": "x"},
    ]
    text = Chat(tokenizer(CHATML)).text(
        messages, tools=TOOLS, documents=[{"title": "t", "text": "u"}], template_kwargs={"thinking": True}
    )
    assert text == (
        '<tools>{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}</tools>\n'
        "[t: u]<|im_start|>user\nOù est le café?<|im_end|>\n"
        '<|im_start|>assistant\n<tool_call>{"name": "f", "arguments": {"a": [1, "é"]}}</tool_call><|im_end|>\n'
        "<|im_start|>tool\n12<|im_end|>\n<|im_start|>assistant<think>\n"
    )


def test_the_end_of_the_prompt() -> None:
    chat = Chat(tokenizer(CHATML))
    assert chat.text(MESSAGES).endswith("<|im_start|>assistant\n")
    assert chat.text(MESSAGES, add_generation_prompt=False).endswith("café?<|im_end|>\n")
    messages = [*MESSAGES, {"role": "assistant", "content": "It is in"}]
    text = chat.text(messages, add_generation_prompt=False, continue_final_message=True)
    assert text.endswith("<|im_start|>assistant\nIt is in")


def test_which_template() -> None:
    named = {"default": "default", "tool_use": "tools"}
    assert Chat(tokenizer(named)).text(MESSAGES) == "default"
    assert Chat(tokenizer(named)).text(MESSAGES, tools=TOOLS) == "tools"
    assert Chat(tokenizer(named)).template == "tools"
    assert Chat(tokenizer(named)).text(MESSAGES, template="tool_use") == "tools"
    assert Chat(tokenizer(named), template="server").text(MESSAGES) == "server"
    assert Chat(tokenizer(named), template="tool_use").text(MESSAGES) == "tools"
    assert Chat(tokenizer("own"), template="server").template == "server"
    trusting = Chat(tokenizer("own"), template="server", trust_request_template=True)
    assert trusting.text(MESSAGES, template="request") == "request"
    assert Chat(tokenizer(None)).template is None
    assert Chat(tokenizer(None), template="server").text(MESSAGES) == "server"


@pytest.mark.parametrize(
    ("template", "options", "reason", "param"),
    [
        (None, {}, "This model has no chat template", "messages"),
        (STRICT, {}, "does not take these messages: The first message must be from the user", "messages"),
        ("{{ messages[0].content + 1 }}", {}, "does not take these messages: ", "messages"),
        ("{{ messages[9].content }}", {}, "does not take these messages: ", "messages"),
        ("{% for %}", {}, "The model's chat template has a mistake in line 1: ", "messages"),
        ("{{ ''.__class__.__mro__ }}", {}, "unsafe", "messages"),
        ("a", {"template": "b"}, "--trust_request_chat_template", "chat_template"),
        ("a", {"template_kwargs": {"tokenize": True}}, "'tokenize'", "chat_template_kwargs"),
        ("a", {"template_kwargs": {"messages": []}}, "'messages'", "chat_template_kwargs"),
        ("a", {"continue_final_message": True}, "add_generation_prompt", "messages"),
        ({"one": "a"}, {}, "multiple chat templates", "messages"),
    ],
)
def test_what_is_refused(template: Any, options: dict[str, Any], reason: str, param: str) -> None:
    messages = [{"role": "system", "content": "x"}]
    with pytest.raises(InvalidRequest) as refused:
        Chat(tokenizer(template)).text(messages, **options)
    assert reason in refused.value.message
    assert refused.value.param == param
    assert "\n" not in refused.value.message


def test_a_trusted_template_with_a_mistake() -> None:
    with pytest.raises(InvalidRequest, match="The chat template has a mistake in line 2") as refused:
        Chat(tokenizer("a"), trust_request_template=True).text(MESSAGES, template="\n{% if %}")
    assert refused.value.param == "chat_template"


def test_no_messages() -> None:
    with pytest.raises(InvalidRequest, match="empty conversation"):
        Chat(tokenizer(PLAIN)).text([])


def test_a_template_of_the_server_is_read_at_the_start() -> None:
    with pytest.raises(LoadError, match="--chat_template is no Jinja template: line 1"):
        Chat(tokenizer("a"), template="{% for %}")
    # One that wants other messages is a template.
    assert Chat(tokenizer("a"), template="{{ raise_exception('no') }}").template is not None
