"""grpc.health.v1: the status of "", of our service and of each model follows readiness. Knows no RPC of our own.

Runs on the event loop. Nothing is pushed into it: it looks at the models when it is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from modelserve import pb
from modelserve.protocols.context import Context

_LOOK_EVERY_S = 0.5
"""How late a watcher may hear of a change; a look costs a microsecond."""

_Response = health_pb2.HealthCheckResponse


class Health(health_pb2_grpc.HealthServicer):  # type: ignore[misc]
    """The health service of one server."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def _statuses(self) -> dict[str, int]:
        models = self._context.models
        ready = {model.name: model.ready and not models.draining for model in models.index()}
        ready |= dict.fromkeys(("", pb.SERVICE.full_name), models.ready())
        return {name: _Response.SERVING if is_ready else _Response.NOT_SERVING for name, is_ready in ready.items()}

    async def Check(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        found = self._statuses().get(request.service)
        if found is None:
            await context.abort(grpc.StatusCode.NOT_FOUND, f"Service {request.service[:200]!r} does not exist.")
        return _Response(status=found)

    async def List(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        return health_pb2.HealthListResponse(
            statuses={name: _Response(status=found) for name, found in self._statuses().items()}
        )

    async def Watch(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        """The status, and again whenever it changes. Ends when the server drains, or it would hold up its end."""
        last = None
        while True:
            draining = self._context.models.draining
            now = self._statuses().get(request.service, _Response.SERVICE_UNKNOWN)
            if now != last:
                yield _Response(status=now)
                last = now
            if draining:
                return
            await asyncio.sleep(_LOOK_EVERY_S)
