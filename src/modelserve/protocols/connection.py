"""One HTTP/1.1 connection: uvicorn's, which has no limit for what comes before a body and no patience that ends.

Bounds the head of a request and the time for it, drops a caller who does not read its answer, reads requests that
offer an upgrade as the plain requests that they also are, and says in JSON what is no HTTP. Knows no route. Runs on the
event loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from modelserve.protocols.exchange import encode

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

_MAX_HEAD = 64 * 1024
"""Bytes of a request line and headers, or of trailers; Go's and nginx's limits are of this order."""
_FRAMING = 16
"""Bytes that may go with a byte of body: chunks of one byte each have five."""
_STATUS = {400: b"400 Bad Request", 431: b"431 Request Header Fields Too Large"}


class Connection(HttpToolsProtocol):
    """Made by uvicorn for each connection; its timer of --timeout_keep_alive always runs here, not only when idle."""

    _answering: RequestResponseCycle | None = None
    """The request that the app is answering, or answered last."""
    _begun = False
    """Whether a message began within the data at hand."""
    _overhead = 0
    """Bytes of the message that are no body, as far as data without a beginning brought them."""
    _unread = 0
    """Bytes of answers that the caller had not taken when the timer last rang."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._start_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn leaves it behind when the caller breaks off
        if self._answering is not None and not self._answering.response_complete:
            # uvicorn tells the request that was read last, which may wait behind this one.
            self._answering.disconnected = True
            self._answering.message_event.set()

    def data_received(self, data: bytes) -> None:
        self._begun = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._read_plainly(data[upgrade.args[0] :])
        except httptools.HttpParserError:
            self._refuse(400, "What came over this connection is no HTTP/1.1 request.")
        else:
            self._overhead += 0 if self._begun else len(data)
            if self._overhead > _MAX_HEAD:
                self._refuse(431, f"The headers of a request have at most {_MAX_HEAD} bytes.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._begun, self._overhead = True, 0

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            if self.parser.get_method() == b"CONNECT":
                raise ValueError("this is no proxy")  # the parser makes an HttpParserError of it
            return
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        self._overhead -= (1 + _FRAMING) * len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if not self.parser.should_upgrade():
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._answering = cycle
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.timeout_keep_alive_task is None and not self.transport.is_closing():
            self._start_timer()  # uvicorn does so only when no request waits behind this one

    def timeout_keep_alive_handler(self) -> None:
        """Close what waits for a request, or for the rest of its head; drop a caller who takes nothing of an answer."""
        unread, self._unread = self._unread, self.transport.get_write_buffer_size()
        if self._unread and self._unread == unread:
            self.transport.abort()
        elif self._unread or not (self.cycle is None or self.cycle.response_complete):
            self._start_timer()
        else:
            super().timeout_keep_alive_handler()

    def _start_timer(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def _read_plainly(self, rest: bytes) -> None:
        """Read a request again that offered an upgrade, such as Java's client does to HTTP/2, without the offer.

        A server may ignore the offer (RFC 9110, 7.8); the parser takes what follows the head for the other protocol.
        """
        headers = b"".join(b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade")
        line = b"%b %b HTTP/%b\r\n" % (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
        self.parser = httptools.HttpRequestParser(self)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn's own
        self.data_received(line + headers + b"\r\n" + rest)

    def _refuse(self, code: int, message: str) -> None:
        """Answer what no route can be found for, and close: where the next request begins is not known."""
        body = encode({"error": message})
        head = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
        self.logger.info(message)
        self.transport.write(head % (_STATUS[code], len(body)) + body)
        self.transport.close()
