"""HTTP requests to a server behind a Unix socket, each on a connection of its own, from one thread with its own loop.

What comes is handed on as it comes, from the loop's thread: a stream of many small events costs no task and no
copy. Knows no vLLM.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, cast

import httptools
import uvloop

T = TypeVar("T")


class Broken(Exception):
    """No whole answer came: the server is gone, or said what is no HTTP."""


class Call(asyncio.Protocol):
    """One request and its answer; fulfils httptools' protocol too."""

    def __init__(
        self, request: bytes, body: Callable[[int, bytes], None], done: Callable[[int, Broken | None], None]
    ) -> None:
        """body: a further part of the answer's, with its status. done: the last call, and none comes after `abort`."""
        self._request = request
        self._body = body
        self._done = done
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.BaseTransport | None = None
        self._status = 0
        self._over = False

    def abort(self) -> None:
        """Hear no more, and hang up, by which the other side knows."""
        self._over = True
        if self._transport is not None:
            self._transport.close()

    def let_go(self) -> None:
        """Hear no more; the other side ends it, which has nothing of weight to say."""
        self._over = True

    def fail(self, reason: str) -> None:
        self._end(Broken(reason))

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        if self._over:
            transport.close()
            return
        cast("asyncio.Transport", transport).write(self._request)  # uvloop's own class
        self._request = b""

    def data_received(self, data: bytes) -> None:
        if self._over:
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._end(Broken(f"the answer is no HTTP: {error}"))

    def connection_lost(self, exc: Exception | None) -> None:
        self._end(Broken("the connection was closed before the answer was whole"))

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        if not self._over:
            self._body(self._status, data)

    def on_message_complete(self) -> None:
        self._end(None)

    def _end(self, error: Broken | None) -> None:
        if self._over:
            return
        self.abort()
        self._done(self._status, error)


class Client:
    """Asks one server. Its thread is the only one that touches a Call."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self.loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="modelserve-engine", daemon=True)
        self._thread.start()

    def open(self, call: Call) -> None:
        """Send it; from the loop's thread."""
        task = self.loop.create_task(self._connect(call))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def ask(self, target: str, body: bytes = b"", *, accept: str = "*/*", timeout_s: float) -> tuple[int, bytes]:
        """GET, or POST where there is a body: the status and the answer's body. Raises Broken; on the loop."""
        parts: list[bytes] = []
        answered: asyncio.Future[int] = self.loop.create_future()

        def done(status: int, error: Broken | None) -> None:
            if answered.done():
                return
            if error is None:
                answered.set_result(status)
            else:
                answered.set_exception(error)

        sent = request("POST" if body else "GET", target, body, accept=accept)
        call = Call(sent, lambda _, data: parts.append(data), done)
        self.open(call)
        try:
            async with asyncio.timeout(timeout_s):
                return await answered, b"".join(parts)
        except TimeoutError as error:
            raise Broken(f"no answer within {timeout_s:g} s") from error
        finally:
            call.abort()

    def wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of work on the loop, for another thread."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result()

    def close(self) -> None:
        """From any thread; at once."""
        self.loop.call_soon_threadsafe(self.loop.stop)

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        self._connecting: set[asyncio.Task[None]] = set()
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        self.loop.run_until_complete(asyncio.sleep(0))
        self.loop.close()

    async def _connect(self, call: Call) -> None:
        try:
            await self.loop.create_unix_connection(lambda: call, self._socket)
        except OSError as error:
            call.fail(f"no connection: {error.strerror or error}")


def request(method: str, target: str, body: bytes = b"", *, accept: str = "*/*") -> bytes:
    """On the wire."""
    head = f"{method} {target} HTTP/1.1\r\nHost: vllm\r\nAccept: {accept}\r\nConnection: close\r\n"
    if body:
        head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode("latin-1", errors="replace") + body
