"""Ways to a server of this machine: over TLS, and through an HTTP proxy, as laptops reach clusters. On loopback."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tests.deploy.kubernetes.certificates import Authority

_BLOCK = 2**16
Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


@contextmanager
def tls(port: int, authority: Authority) -> Iterator[int]:
    """The port that speaks TLS and leads to this one. A client needs a certificate of the authority."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.certificate))
    context.load_cert_chain(*authority.server("server"))
    context.verify_mode = ssl.CERT_REQUIRED

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _join(reader, writer, port)

    with _listening(serve, ssl=context) as found:
        yield found


@contextmanager
def proxy(seen: list[str]) -> Iterator[int]:
    """The port of a proxy that knows CONNECT; `seen` gets each head."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        await _join(reader, writer, int(head.split()[1].rpartition(":")[2]))

    with _listening(serve) as found:
        yield found


async def _join(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
    there, to_there = await asyncio.open_connection("127.0.0.1", port)
    try:
        await asyncio.gather(_copy(reader, to_there), _copy(there, writer))
    finally:
        to_there.transport.abort()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(_BLOCK):
            writer.write(data)
            await writer.drain()
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


@contextmanager
def _listening(serve: Serve, **given: Any) -> Iterator[int]:
    """On a thread of its own, with all its connections."""
    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda *_: None)  # connections that a test breaks off

    async def served(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await serve(reader, writer)
        finally:
            writer.transport.abort()

    server = loop.run_until_complete(asyncio.start_server(served, "127.0.0.1", 0, **given))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def stop() -> None:
        server.close()
        others = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        for _ in range(5):  # rounds in which transports that were aborted close their sockets
            await asyncio.sleep(0)

    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
