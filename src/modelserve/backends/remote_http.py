"""A remote predictor over HTTP: the connections that V1 and V2 share.

Knows neither protocol's body. Blocking; several threads may ask at once, over connections that are kept, and one thread
has them.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
from collections.abc import Mapping
from concurrent.futures import CancelledError
from pathlib import Path

import httpx2
import uvloop

from modelserve.backends.remote_answer import DESCRIPTION_BYTES
from modelserve.backends.remote_failure import CONNECT_S, late, silent
from modelserve.errors import LoadError, PredictorDown, PredictorFailed, RequestTimeout

_IDLE_S = 4.0
"""An idle connection is not used again after this: servers close theirs after five seconds and more, and what is sent
at that moment is lost."""
_CONNECTIONS = 64
_GONE_S = 20
"""After so long without a sign of the other machine, a connection is over, though nobody has ended it."""
_SOCKET_OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in {
            "TCP_KEEPIDLE": _GONE_S // 2,
            "TCP_KEEPINTVL": _GONE_S // 4,
            "TCP_KEEPCNT": 2,
            "TCP_USER_TIMEOUT": _GONE_S * 1000,
        }.items()
        if hasattr(socket, name)  # macOS has others
    ),
]


class Http:
    """A server's address, and the connections to it, which live on an event loop of their own: only there has a whole
    exchange one deadline, however slowly a byte follows another, and can be given up in its midst."""

    def __init__(self, host: str, port: int, *, tls: ssl.SSLContext | None) -> None:
        """tls: how the server's certificate is checked; None without TLS."""
        self.where = f"{host}:{port}"
        self._url = f"{'https' if tls else 'http'}://{host}:{port}"
        self._client = httpx2.AsyncClient(  # with a transport of its own it looks for no proxy
            transport=httpx2.AsyncHTTPTransport(
                verify=tls or False,
                limits=httpx2.Limits(max_connections=_CONNECTIONS, keepalive_expiry=_IDLE_S),
                socket_options=_SOCKET_OPTIONS,
            ),
            headers={"accept-encoding": "identity", "user-agent": "modelserve"},
        )
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="modelserve-predictor", daemon=True)
        self._thread.start()

    def ask(
        self,
        method: str,
        path: str,
        *,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        timeout_s: float,
        most: int = DESCRIPTION_BYTES,
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body, of at most so many bytes, all within the time.

        Raises PredictorDown where nobody answers, RequestTimeout, and PredictorFailed for a larger body.
        """
        asking = self._ask(method, path, body, headers, timeout_s, most)
        try:
            return asyncio.run_coroutine_threadsafe(asking, self._loop).result()
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            raise PredictorDown(f"the remote predictor at {self.where} cannot be reached ({_why(error)})") from error
        except (httpx2.TimeoutException, TimeoutError) as error:
            raise late(self.where, timeout_s) from error
        except (httpx2.TransportError, httpx2.InvalidURL) as error:
            raise PredictorDown(
                f"the remote predictor at {self.where} broke the connection off ({_why(error)})", begun=True
            ) from error
        except (RuntimeError, CancelledError) as error:  # closed meanwhile
            asking.close()
            raise PredictorDown("the server is shutting down") from error

    async def _ask(
        self,
        method: str,
        path: str,
        body: bytes | None,
        headers: Mapping[str, str] | None,
        timeout_s: float,
        most: int,
    ) -> tuple[int, Mapping[str, str], bytes]:
        timeout = httpx2.Timeout(timeout_s, connect=min(CONNECT_S, timeout_s))
        chunks, size = [], 0
        async with (
            asyncio.timeout(timeout_s),
            self._client.stream(method, self._url + path, content=body, headers=headers, timeout=timeout) as response,
        ):
            async for chunk in response.aiter_raw():
                chunks.append(chunk)
                size += len(chunk)
                if size > most:
                    raise PredictorFailed(f"the remote predictor answered more than the {most} bytes that it can need")
        return response.status_code, response.headers, b"".join(chunks)

    def look(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Mapping[str, str], bytes]:
        """A question about the model, which a server that is well answers at once. Raises PredictorDown."""
        try:
            return self.ask(method, path, body=body, timeout_s=CONNECT_S)
        except RequestTimeout as error:
            raise silent(self.where) from error

    def close(self) -> None:
        """Give up what is asked now, and end the connections."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._loop.create_task, self._end())
            self._thread.join()
            self._loop.close()

    async def _end(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        await self._client.aclose()
        self._loop.stop()


def tls(ca_file: str | None) -> ssl.SSLContext:
    """Checks certificates by those authorities, or by this machine's. Raises LoadError."""
    if ca_file is None:
        return ssl.create_default_context()
    path = Path(ca_file).expanduser()
    try:
        return ssl.create_default_context(
            cafile=None if path.is_dir() else path, capath=path if path.is_dir() else None
        )
    except OSError as error:
        raise LoadError(f"--predictor_ca_file {ca_file} cannot be read ({error.strerror or error})") from error


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or "no reason was given"
