"""The ASGI app: the routes of every protocol, and around each of them what all share.

An endpoint turns errors into its API's error body, gives x-request-id back, compresses when asked and has each
request recorded once. Knows no protocol's wire format. Runs on the event loop. It is plain ASGI, without Starlette's
request and response objects and without middleware: those cost more than a short text's share of a forward pass.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from importlib import import_module
from time import perf_counter
from types import ModuleType
from typing import Any

from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from modelserve.errors import (
    BodyTimeout,
    InferenceFailed,
    MethodNotAllowed,
    ModelServeError,
    NotFound,
    RequestCancelled,
)
from modelserve.protocols.coding import compressed, wants_gzip
from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, Reply, encode
from modelserve.protocols.openapi import Operation
from modelserve.protocols.sse import stream
from modelserve.protocols.status import STATUS, status
from modelserve.registry import PROTOCOLS
from modelserve.runtime.record import record

log = logging.getLogger("modelserve")

Function = Callable[[Exchange], Awaitable[Reply]]
"""What a route does. Raises ModelServeError subclasses."""
ErrorBody = Callable[[ModelServeError, int], Any]
"""(error, HTTP status) -> the JSON value of an API's error answer."""

_GONE = STATUS[RequestCancelled].http
_GZIP_MIN_BYTES = 1024
_CACHED_PATH_CHARS = 256


def error_body(error: ModelServeError, code: int) -> dict[str, str]:
    """The error shape of V1, V2 and everything that has none of its own."""
    return {"error": error.message}


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The ASGI app of one route. quiet: not recorded (probes, metrics, docs). operation: what /openapi.json says."""

    context: Context
    api: str
    function: Function
    error_body: ErrorBody
    quiet: bool = False
    operation: Operation | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        started = perf_counter()
        exchange = Exchange(self.context, scope, receive)
        try:
            reply = await self.function(exchange)
            if reply.chunks is not None:
                reply = await stream(exchange, reply, reply.chunks, send, partial(self._refused, exchange))
        except Exception as error:
            reply = self._refused(exchange, error)
        if not self.quiet:
            self._record(exchange, reply.status, perf_counter() - started)
        if reply.status != _GONE and not reply.sent:
            await _send(exchange, reply, send)

    def refusing(self, error: ModelServeError) -> Endpoint:
        """The same endpoint, answering every request with this error."""

        async def refuse(exchange: Exchange) -> Reply:
            raise error

        return replace(self, function=refuse)

    def _refused(self, exchange: Exchange, error: Exception) -> Reply:
        """The reply to what a request ended in."""
        if not isinstance(error, ModelServeError):
            log.error("Request %s failed: %s %s", exchange.id, exchange.method, exchange.path, exc_info=error)
            error = InferenceFailed(f"The server failed on this request; its log says why under the id {exchange.id}.")
        code = status(error).http
        headers: tuple[tuple[bytes, bytes], ...] = ()
        if retry_after_s := getattr(error, "retry_after_s", None):
            headers = ((b"retry-after", b"%d" % retry_after_s),)
        elif isinstance(error, BodyTimeout):
            headers = ((b"connection", b"close"),)  # where the next request would begin is not known
        elif isinstance(error, MethodNotAllowed):
            headers = ((b"allow", error.allow.encode()),)
        return Reply(encode(self.error_body(error, code)), code, headers=headers)

    def _record(self, exchange: Exchange, code: int, total_s: float) -> None:
        request, model = exchange.request, exchange.model
        record(
            self.context.config,
            api=self.api,
            task=(model.task_name if model else None) or "",
            code=str(code),
            id=exchange.id,
            method=exchange.method,
            path=exchange.path,
            texts=len(request.instances) if request else 0,
            response=exchange.response,
            total_s=total_s,
            request_texts=request.instances if request else (),
        )


async def _send(exchange: Exchange, reply: Reply, send: Send) -> None:
    body = reply.body
    headers = [
        (b"content-type", reply.content_type),
        (b"x-request-id", exchange.id.encode("latin-1")),
        *reply.headers,
    ]
    if exchange.response is not None and exchange.response.tokens_dropped:
        headers.append((b"x-modelserve-tokens-dropped", b"%d" % exchange.response.tokens_dropped))
    if len(body) >= _GZIP_MIN_BYTES:  # smaller ones fit a packet anyway
        headers.append((b"vary", b"accept-encoding"))
        if wants_gzip(exchange.header("accept-encoding")):
            body = await compressed(body)
            headers.append((b"content-encoding", b"gzip"))
    headers.append((b"content-length", b"%d" % len(body)))
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if exchange.method == "HEAD" else body})


def endpoint(
    context: Context,
    api: str,
    function: Function,
    error_body: ErrorBody = error_body,
    *,
    quiet: bool = False,
    operation: Operation | None = None,
) -> Endpoint:
    """The ASGI app for one route: `Route(path, endpoint(…), methods=[…])`. `api` is the metrics' label."""
    return Endpoint(context, api, function, error_body, quiet, operation)


def protocols() -> list[ModuleType]:
    """The modules of registry.PROTOCOLS. Each has `routes(context)`, all of them made with `endpoint`.

    It may have `error_bodies(context) -> dict[prefix, ErrorBody]`: the shape of a 404 under a prefix.
    """
    return [import_module(row.partition(":")[0]) for row in PROTOCOLS.values()]


def all_routes(context: Context) -> list[Route]:
    """The routes of every protocol; of two that match a path, the first one answers."""
    return [route for module in protocols() for route in module.routes(context)]


async def _without_slash(exchange: Exchange) -> Reply:
    path, query = exchange.path.rstrip("/"), exchange.scope["query_string"]
    location = path.encode("latin-1") + (b"?" + query if query else b"")
    return Reply(b"", 307, headers=((b"location", location),))


def endpoint_of(route: Route) -> Endpoint:
    """The route's endpoint. Raises TypeError for a route that was made in another way."""
    if not isinstance(route.app, Endpoint):
        raise TypeError(f"The route {route.path} was not made with endpoint().")
    return route.app


def build_app(context: Context) -> ASGIApp:
    """The server as an ASGI app. It starts and stops nothing: the models' life is the server's affair."""
    routes = all_routes(context)
    shapes: dict[str, ErrorBody] = {"": error_body}
    for module in protocols():
        shapes |= getattr(module, "error_bodies", lambda context: {})(context)

    def target(method: str, path: str) -> tuple[Endpoint, dict[str, str]]:
        """Who answers, and the path's parameters. Linear in the routes, hence the cache in front of it."""
        for route in routes:
            if match := route.path_regex.match(path):
                same = [other for other in routes if other.path == route.path]
                for other in same:
                    if method in (other.methods or ()):
                        return endpoint_of(other), match.groupdict()
                allow = ", ".join(sorted({name for other in same for name in other.methods or ()}))
                wrong = MethodNotAllowed(f"{path} answers {allow}, not {method}.", allow=allow)
                return endpoint_of(route).refusing(wrong), {}
        bare = path.rstrip("/")
        if bare != path and any(route.path_regex.match(bare) for route in routes):
            return endpoint(context, "http", _without_slash), {}
        shape = shapes[max((prefix for prefix in shapes if path.startswith(prefix)), key=len)]
        nothing = NotFound(f"There is nothing at {path[:_CACHED_PATH_CHARS]}; /openapi.json lists what there is.")
        return endpoint(context, "http", _without_slash, shape).refusing(nothing), {}

    cached = lru_cache(maxsize=1024)(target)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path = scope["path"]
            find = cached if len(path) <= _CACHED_PATH_CHARS else target
            answer, scope["path_params"] = find(scope["method"], path)
            await answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            for phase in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{phase}.complete"})
        else:
            await send({"type": "websocket.close"})

    return app
