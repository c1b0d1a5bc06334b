"""A model behind all of its APIs in this process: the ASGI app without sockets, the gRPC server on a real port."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import httpx

from modelserve import pb
from modelserve.flags import from_keywords
from modelserve.protocols.context import Context
from modelserve.protocols.grpc import start_grpc
from modelserve.protocols.http import build_app
from modelserve.runtime.model import Model, Models

NAME = "m"


@dataclass(frozen=True)
class Served:
    """Both ways to reach one model."""

    http: httpx.AsyncClient
    infer: Callable[..., Any]
    """ModelInfer of a gRPC channel."""
    name: str = NAME


def reached(http: httpx.AsyncClient, channel: grpc.aio.Channel, name: str = NAME) -> Served:
    infer = channel.unary_unary(
        f"/{pb.SERVICE.full_name}/ModelInfer",
        request_serializer=pb.ModelInferRequest.SerializeToString,
        response_deserializer=pb.ModelInferResponse.FromString,
    )
    return Served(http, infer, name)


async def start(stack: AsyncExitStack, path: Path, **flags: Any) -> Served:
    """Serve `path` with these flags until the stack is closed. One thread is the fastest for tiny models."""
    config = from_keywords(**{"model_name": NAME, "model_dir": path, "threads": 1, **flags})
    model = Model(config)
    stack.callback(model.close)
    await model.load()
    context = Context(config, Models([model]))
    server, port = await start_grpc(context, 0)
    stack.push_async_callback(server.stop, None)
    transport = httpx.ASGITransport(build_app(context))
    http = await stack.enter_async_context(httpx.AsyncClient(transport=transport, base_url="http://test", timeout=60))
    channel = await stack.enter_async_context(grpc.aio.insecure_channel(f"127.0.0.1:{port}"))
    return reached(http, channel, config.model_name)


Serve = Callable[..., Awaitable[Served]]
"""`serve(path, **flags)`: a model that is started once for each path and flags, and ended after the module."""
