"""A reply that is streamed as server-sent events: text/event-stream, one JSON value for each `data:` line.

Nothing is sent before the first event, so that a request which fails until then is answered like any other: with a
status and its API's error body. Afterwards an error is an event, and the last one. Each event is sent when the
connection has room for it. Knows no API; runs on the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from starlette.types import Send

from modelserve.errors import RequestCancelled
from modelserve.protocols.exchange import Chunks, Exchange, Reply, encode
from modelserve.protocols.patience import patience

MEDIA = "text/event-stream"
DONE = b"data: [DONE]\n\n"
"""How OpenAI's streams end."""

_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # nginx would collect the events
)


def event(value: Any) -> bytes:
    return b"data: " + encode(value) + b"\n\n"


async def stream(
    exchange: Exchange, reply: Reply, chunks: Chunks, send: Send, refuse: Callable[[Exception], Reply]
) -> Reply:
    """Send the chunks, and give back what there is to record: a reply that was sent, with the status that it came to.

    refuse: the reply to an error. It is given back to be sent when nothing has been, and its body is the last event
    otherwise. Whatever ends the stream, the source of the chunks is closed before this returns.
    """
    begun = False
    start = {
        "type": "http.response.start",
        "status": reply.status,
        "headers": [*_HEADERS, (b"x-request-id", exchange.id.encode("latin-1")), *reply.headers],
    }
    try:
        async with patience(exchange), aclosing(chunks):
            async for chunk in chunks:
                if not begun:
                    begun = True
                    await send(start)
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not begun:
            await send(start)
    except Exception as error:
        refused = refuse(error)
        if not begun:
            return refused
        if not isinstance(error, RequestCancelled):
            await _end(send, b"data: " + refused.body + b"\n\n")
        return Reply(b"", refused.status, sent=True)
    await _end(send)
    return Reply(b"", reply.status, sent=True)


async def _end(send: Send, last: bytes = b"") -> None:
    await send({"type": "http.response.body", "body": last, "more_body": False})
