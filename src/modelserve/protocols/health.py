"""Whether the server lives and answers, its metrics, and what it serves. None of it is counted or logged.

Knows no API; runs on the event loop.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec
from msgspec import UNSET, UnsetType
from starlette.routing import Route

from modelserve.protocols.context import Context
from modelserve.protocols.exchange import Exchange, Reply, encode
from modelserve.protocols.http import Function, endpoint
from modelserve.protocols.openapi import Operation
from modelserve.runtime import metrics
from modelserve.runtime.model import Models


class Alive(msgspec.Struct):
    status: Literal["alive"]


class Live(msgspec.Struct):
    """False when a forward pass hangs or the device is lost: the process must be restarted."""

    live: bool


class Ready(msgspec.Struct):
    """Where not ready: the stage of the start, its progress from 0 to 1, and the reason."""

    ready: bool
    stage: str | UnsetType = UNSET
    progress: float | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class Health(msgspec.Struct):
    status: str
    """ready, or the stage that the server is in."""


def readiness(models: Models) -> Ready:
    """Of the model that is furthest from ready."""
    if models.ready():
        return Ready(True)
    waiting = [model for model in models.index() if not model.ready]
    if models.draining:
        return Ready(False, "draining", 1.0, "the server is shutting down")
    if not waiting:
        if models.live():
            return Ready(False, "warm-up", 1.0, "another worker process is not ready yet")
        return Ready(False, "stuck", 1.0, "see live")
    model = min(waiting, key=lambda model: model.progress)
    return Ready(False, model.stage, model.progress, model.reason)


async def alive(exchange: Exchange) -> Reply:
    return Reply(encode(Alive("alive")))


async def live(exchange: Exchange) -> Reply:
    answer = exchange.context.models.live()
    return Reply(encode(Live(answer)), 200 if answer else 503)


async def ready(exchange: Exchange) -> Reply:
    answer = readiness(exchange.context.models)
    return Reply(encode(answer), 200 if answer.ready else 503)


async def health(exchange: Exchange) -> Reply:
    answer = readiness(exchange.context.models)
    return Reply(encode(Health("ready" if answer.ready else str(answer.stage))), 200 if answer.ready else 503)


async def show_metrics(exchange: Exchange) -> Reply:
    accept = exchange.header("accept")
    body, content_type = metrics.render(accept)
    return Reply(await metrics.with_beside(body, content_type, accept), content_type=content_type.encode())


async def info(exchange: Exchange) -> Reply:
    models = exchange.context.models.index()
    described = [model.describe() for model in models]
    return Reply(encode(described[0] if len(described) == 1 else {"models": described}))


def routes(context: Context) -> list[Route]:
    def route(path: str, function: Function, operation: Operation) -> Route:
        return Route(path, endpoint(context, "health", function, operation=operation, quiet=True), methods=["GET"])

    return [
        route("/", alive, Operation("Whether the port answers", Alive)),
        route("/v2/health/live", live, Operation("Whether the server works", Live, not_ready=Live)),
        route("/v2/health/ready", ready, Operation("Whether every model answers", Ready, not_ready=Ready)),
        route("/health", health, Operation("Whether every model answers, in a word", Health, not_ready=Health)),
        route(
            "/metrics",
            show_metrics,
            Operation("Prometheus metrics", media=("text/plain", "application/openmetrics-text")),
        ),
        route("/info", info, Operation("Model, task, dtype, backend, limits, versions", dict[str, Any])),
    ]
