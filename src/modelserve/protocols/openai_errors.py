"""OpenAI's error body, and hints for its clients where the JSON decoder's own words say too little.

Knows no route. Runs on the event loop.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TypeVar

import msgspec

from modelserve.errors import InvalidRequest, ModelNotFound, ModelServeError
from modelserve.protocols.exchange import Exchange

T = TypeVar("T")

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`\.", re.DOTALL)
_NAME = 80
"""Characters of a caller's own word that are repeated to him."""


class Reason(msgspec.Struct):
    """message: one sentence. param: the field of the request that was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """OpenAI's error body."""

    error: Reason


def openai_error(error: ModelServeError, code: int) -> OpenAIError:
    """The body for an error of HTTP status `code`, with the types that OpenAI's own server gives."""
    kind, name = "invalid_request_error", None
    if isinstance(error, ModelNotFound):
        name = "model_not_found"
    elif code == 429:
        kind, name = "requests", "rate_limit_exceeded"
    elif code >= 500:
        kind = "server_error"
    return OpenAIError(Reason(error.message, kind, getattr(error, "param", None), name))


async def read(exchange: Exchange, decoder: msgspec.json.Decoder[T], hints: Mapping[str, str]) -> T:
    """The body. `hints`: what each field should be, said behind the decoder's complaint about it.

    Raises InvalidRequest with the field's name as `param`.
    """
    try:
        return await exchange.json(decoder)
    except InvalidRequest as error:
        if unknown := _UNKNOWN.fullmatch(error.message):
            name = unknown[1][:_NAME]
            raise InvalidRequest(
                f"Unrecognized request argument supplied: {name}; /openapi.json lists those that are known.", param=name
            ) from error
        field = (error.param or "").partition("[")[0].partition(".")[0]
        if field not in hints:
            raise
        raise type(error)(f"{error.message.rstrip('.')}; {hints[field]}.", param=field) from error
