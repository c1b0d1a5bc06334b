"""Work on large bodies, away from the event loop. Knows neither bodies nor work."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

LARGE_BYTES = 256 * 1024
"""Above this, a body takes longer to work through than a health probe should wait."""


async def aside(size: int, function: Callable[P, T], *arguments: P.args, **keywords: P.kwargs) -> T:
    """The function's result; on a thread when it works through so many bytes."""
    if size <= LARGE_BYTES:
        return function(*arguments, **keywords)
    return await asyncio.to_thread(function, *arguments, **keywords)
