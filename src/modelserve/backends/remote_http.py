"""A remote predictor over HTTP: the connection that V1 and V2 share, and what its failures mean.

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
from typing import Any

import httpx2
import msgspec
import numpy as np
import uvloop

from modelserve.errors import LoadError, ModelServeError, Overloaded, PredictorDown, PredictorFailed, RequestTimeout
from modelserve.types import Array, Caller

CONNECT_S = 5.0
"""Longest time for a connection, and for a question about the model's health."""
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
_EXCERPT = 500
_OF_INPUT = (400, 413, 422, 500)
"""What is answered where one of the texts cannot be computed; Triton says 500 of a Python model that raised."""
_DESCRIPTION = 4 * 1024 * 1024
"""Most bytes of what a server says of a model, or of all its models."""


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
        most: int = _DESCRIPTION,
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


def silent(where: str) -> PredictorDown:
    return PredictorDown(f"the remote predictor at {where} does not answer")


def most_bytes(numbers: int) -> int:
    """Of an answer with so many numbers, in JSON: 24 characters of a float64, a comma, some space; and the rest."""
    return 32 * numbers + _DESCRIPTION


def numbers_of(values: Any) -> Array:
    """Numbers that came as JSON, [...]. Raises ValueError for anything else, null included."""
    found = np.asarray(values)
    if found.size and found.dtype.kind not in "iuf":
        raise ValueError("not all of it are numbers")
    return found


def late(where: str, timeout_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"the remote predictor at {where} did not answer within {timeout_s:.3g} s "
        "(--predictor_request_timeout_seconds, --request_timeout)"
    )


def failure(where: str, status: int, headers: Mapping[str, str], body: bytes) -> ModelServeError:
    """What an answer that is no success means."""
    said = message(body)
    if status == 429 or (status == 503 and queue_is_full(said)):
        return Overloaded(f"the remote predictor is busy: {said}", retry_after_s=_seconds(headers))
    if status == 503:
        return PredictorDown(f"the remote predictor at {where} is not ready: {said}", retry_after_s=_seconds(headers))
    if status == 504:
        return RequestTimeout(f"the remote predictor timed out: {said}")
    return PredictorFailed(f"the remote predictor answered {status}: {said}", of_input=status in _OF_INPUT)


def message(body: bytes) -> str:
    """The sentence in an error's body: V1's and V2's {"error": …}, FastAPI's {"detail": …}, or the text itself."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        found = body.decode("utf-8", "replace")
    if isinstance(found, dict):
        found = found.get("error") or found.get("detail") or found.get("message") or found
    if isinstance(found, dict):
        found = found.get("message") or found
    return sentence(str(found))


def sentence(said: str) -> str:
    """The remote's words in one line, without the places in its code where a Python model of Triton's failed."""
    return " ".join(said.partition("\n\nAt:\n")[0].split())[:_EXCERPT] or "nothing was said"


def queue_is_full(said: str) -> bool:
    """Triton says both of a full queue, and of a request that waited too long there, that it is not available."""
    return "Exceeds maximum queue size" in said or "Request timeout expired" in said


def absent(where: str, name: str, others: list[str] | None) -> LoadError:
    """No such model there. others: names of those that there are, None where it does not tell them."""
    there = "" if others is None else f"; it has {', '.join(others) or 'none'}"
    return LoadError(f"the remote predictor at {where} has no model named {name} (--model_name){there}")


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


def headers_of(caller: Caller) -> dict[str, str]:
    """The caller's id and trace as headers; what no header can carry is left out."""
    found = {"x-request-id": caller.request_id, "traceparent": caller.traceparent, "tracestate": caller.tracestate}
    return {name: value for name, value in found.items() if value and value.isascii() and value.isprintable()}


def _seconds(headers: Mapping[str, str]) -> int:
    said = headers.get("retry-after", "")
    return min(600, max(1, int(said))) if said.isascii() and said.isdigit() and len(said) < 10 else 1


def _why(error: Exception) -> str:
    return " ".join(str(error).split()) or "no reason was given"
