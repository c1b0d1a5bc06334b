"""What an answer of OpenAI's API cost, in tokens. Knows no route."""

from __future__ import annotations

import msgspec


class Usage(msgspec.Struct):
    """prompt_tokens: read, special tokens included. completion_tokens: written, the one that ended a text included."""

    prompt_tokens: int
    total_tokens: int
    completion_tokens: int = 0
    prompt_tokens_details: None = None


def usage(prompt_tokens: int, completion_tokens: int = 0) -> Usage:
    return Usage(prompt_tokens, prompt_tokens + completion_tokens, completion_tokens)
