"""From the messages of a chat to the ids of a prompt, by the model's chat template.

Messages are plain objects as templates read them (protocols/chat_messages.py makes them). Rendered by transformers, in
its sandbox. Knows no engine and no protocol; one instance serves the tokenizer's threads.

A template of a caller is code: its loops may run for hours and nothing stops them. So it is refused unless
--trust_request_chat_template says that callers are trusted, as in vLLM. The sandbox keeps any template from files and
from Python's insides, not from the processor.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import jinja2
import tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

from modelserve.errors import InvalidRequest, LoadError

Message = dict[str, Any]

_RAISED = (jinja2.TemplateError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError)
"""What raise_exception says, what transformers finds missing, and what a template's expressions run into."""
_REASON = 400
"""Characters of a template's own words in an error."""


class Chat:
    """The chat templates of one model."""

    def __init__(self, loaded: Any, *, template: str | None = None, trust_request_template: bool = False) -> None:
        """loaded: the transformers tokenizer. template: the server's own, which comes before the tokenizer's.

        Raises LoadError when it is no template.
        """
        self._loaded = loaded
        self._template = template
        self._trusts = trust_request_template
        self._reserved = _parameters(loaded.apply_chat_template) | _parameters(render_jinja_template)
        if template is not None:
            try:
                loaded.apply_chat_template([{"role": "user", "content": ""}], chat_template=template, tokenize=False)
            except jinja2.TemplateSyntaxError as error:
                raise LoadError(
                    f"--chat_template is no Jinja template: line {error.lineno}: {error.message}"
                ) from error
            except _RAISED:  # it wants other messages than this one, and is a template
                pass

    @property
    def template(self) -> str | None:
        """The one used where tools are given; None without any. What it says tells how calls are written."""
        own = self._loaded.chat_template
        if self._template is not None and not (isinstance(own, dict) and self._template in own):
            return self._template
        if isinstance(own, dict):
            found = own.get(self._template or "tool_use") or own.get("default")
            return str(found) if found else None
        return str(own) if own else None

    def ids(self, messages: Sequence[Message], **options: Any) -> list[int]:
        """The prompt: what `text` gives, in which the template has written the special tokens."""
        text = self.text(messages, **options)
        rust = getattr(self._loaded, "backend_tokenizer", None)
        if isinstance(rust, tokenizers.Tokenizer):
            found: list[int] = rust.encode(text, add_special_tokens=False).ids
        else:
            found = self._loaded.encode(text, add_special_tokens=False)
        return found

    def text(
        self,
        messages: Sequence[Message],
        *,
        tools: Sequence[dict[str, Any]] | None = None,
        template: str | None = None,
        template_kwargs: dict[str, Any] | None = None,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        documents: Sequence[dict[str, Any]] | None = None,
    ) -> str:
        """The chat as the model reads it.

        template: the caller's, or the name of one of the tokenizer's. continue_final_message: the last message stays
        open, for the model to go on with. Raises InvalidRequest where there is no template, where the caller's is not
        trusted, and where the template does not take these messages.
        """
        self._check(template, template_kwargs or {})
        try:
            text: str = self._loaded.apply_chat_template(
                list(messages),
                tools=list(tools) if tools else None,
                documents=list(documents) if documents else None,
                chat_template=self._template if template is None else template,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                tokenize=False,
                **(template_kwargs or {}),
            )
        except jinja2.TemplateSyntaxError as error:
            whose, param = ("The chat template", "chat_template") if template is not None else _OWN
            raise InvalidRequest(
                f"{whose} has a mistake in line {error.lineno}: {error.message}", param=param
            ) from error
        except _RAISED as error:
            reason = " ".join(str(error).split())[:_REASON]
            raise InvalidRequest(
                f"The chat template does not take these messages: {reason}", param="messages"
            ) from error
        except RecursionError as error:
            raise InvalidRequest("The messages are nested too deeply.", param="messages") from error
        return text

    def _check(self, template: str | None, kwargs: dict[str, Any]) -> None:
        own = self._loaded.chat_template
        named = isinstance(own, dict) and template in own
        if template is None and self._template is None and not own:
            raise InvalidRequest(
                "This model has no chat template, so it cannot be sent messages; send a prompt to completions, or "
                "start the server with --chat_template.",
                param="messages",
            )
        if template is not None and not named and template != self.template and not self._trusts:
            raise InvalidRequest(
                "chat_template is not taken from requests here; the server allows it with "
                "--trust_request_chat_template.",
                param="chat_template",
            )
        for name in kwargs:
            if name in self._reserved:
                raise InvalidRequest(
                    f"chat_template_kwargs has {name!r}, which is no variable of a template but has a meaning of its "
                    "own.",
                    param="chat_template_kwargs",
                )


_OWN = "The model's chat template", "messages"


def _parameters(function: Any) -> frozenset[str]:
    """Names that cannot be variables of a template: they would be taken for these."""
    return frozenset({"messages", *inspect.signature(function).parameters}) - {"kwargs"}
