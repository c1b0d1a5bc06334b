"""How long an answer is worked on: until the caller goes away or --request_timeout passes. Knows no protocol.

Runs on the event loop, in the request's own task, which is cancelled and given the reason instead.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from modelserve.errors import ModelServeError, RequestCancelled, RequestTimeout

if TYPE_CHECKING:
    from modelserve.protocols.exchange import Exchange


@asynccontextmanager
async def patience(exchange: Exchange) -> AsyncIterator[None]:
    """The block around all that is done after the body was read, the sending of a stream included.

    Raises RequestCancelled or RequestTimeout in place of what the block was waiting for.
    """
    waiting = asyncio.current_task()
    assert waiting is not None
    given_up: list[ModelServeError] = []

    def give_up(error: ModelServeError) -> None:
        if not given_up:
            given_up.append(error)
            waiting.cancel()

    async def caller_leaves() -> None:
        while (await exchange.receive())["type"] != "http.disconnect":
            pass
        give_up(RequestCancelled("The caller went away before the answer was ready."))

    def too_late() -> None:
        give_up(RequestTimeout(f"No answer within the {limit:g} s of --request_timeout; ask for less of it."))

    limit = exchange.context.config.request_timeout
    timer = asyncio.get_running_loop().call_later(limit, too_late)
    caller = asyncio.create_task(caller_leaves())
    try:
        yield
    except asyncio.CancelledError as error:
        if not given_up:
            raise
        waiting.uncancel()
        raise given_up[0] from error
    finally:
        timer.cancel()
        caller.cancel()
