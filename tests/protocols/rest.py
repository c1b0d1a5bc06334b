"""A stand-in model and two ways to reach a REST app: in process, and over a real uvicorn on loopback.

What real models answer is compared in test_kserve.py; here a test says what the model does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx
import numpy as np
import uvicorn
from starlette.types import ASGIApp

from modelserve.config import Config
from modelserve.errors import LoadError, NotReady
from modelserve.protocols.context import Context
from modelserve.protocols.http import build_app
from modelserve.runtime.model import Models
from modelserve.types import InferRequest, InferResponse, Tensor, TensorSpec

Infer = Callable[[InferRequest], Awaitable[InferResponse]]


async def lengths(request: InferRequest) -> InferResponse:
    """How many characters, or ids, each instance has: numbers as predictions, one INT64 tensor."""
    counts = [len("".join(i)) if isinstance(i, str) else sum(len(part or ()) for part in i) for i in request.instances]
    outputs = [Tensor("output-0", "INT64", (len(counts),), np.array(counts))] if request.form == "tensors" else []
    predictions = list(counts) if request.form == "json" else []
    return InferResponse(request.model_name, request.id, predictions, outputs, tokens=counts)


@dataclass
class StandIn:
    """A model that answers by `answer`."""

    answer: Infer = lengths
    name: str = "m"
    stage: str = "ready"
    progress: float = 1.0
    reason: str = ""
    task_name: str | None = "text_embedding"
    takes: str = "texts"
    generates: bool = False
    adapters: Mapping[str, str] = field(default_factory=dict)
    created: int = 1700000000
    lives: bool = True
    info: Any = None
    requests: list[InferRequest] = field(default_factory=list)

    @property
    def ready(self) -> bool:
        return self.stage == "ready"

    def check_ready(self) -> None:
        if not self.ready:
            raise NotReady(f"Model with name {self.name} is not ready: {self.reason}.", retry_after_s=7)

    def live(self) -> bool:
        return self.lives

    def inputs(self) -> list[TensorSpec]:
        return [TensorSpec("input-0", "BYTES", (-1,))]

    def outputs(self) -> list[TensorSpec]:
        return [TensorSpec("output-0", "INT64", (-1,))]

    def describe(self) -> dict[str, Any]:
        return {"model_name": self.name, "backend": "stand-in"}

    async def infer(self, request: InferRequest) -> InferResponse:
        self.requests.append(request)
        return await self.answer(request)

    async def load(self) -> None:
        if self.reason == "broken":
            raise LoadError("The weights are gone.")
        self.stage, self.reason = "ready", ""

    async def unload(self) -> None:
        self.stage, self.reason = "unloaded", "it has been unloaded"


def context(*models: StandIn, **parameters: Any) -> Context:
    return Context(Config(**parameters), Models(models or [StandIn()]))  # type: ignore[arg-type]


def client(*models: StandIn, **parameters: Any) -> httpx.AsyncClient:
    """In process: the whole app, without sockets."""
    transport = httpx.ASGITransport(build_app(context(*models, **parameters)))
    return httpx.AsyncClient(transport=transport, base_url="http://test")


@asynccontextmanager
async def listening(*models: StandIn, **parameters: Any) -> AsyncIterator[int]:
    """The port of a real uvicorn that serves the app."""
    async with serving(build_app(context(*models, **parameters))) as port:
        yield port


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[int]:
    """The port of a real uvicorn that serves this app."""
    config = uvicorn.Config(app, port=0, http="httptools", ws="none", lifespan="off", log_config=None, access_log=False)
    server = uvicorn.Server(config)
    config.load()
    server.lifespan = config.lifespan_class(config)
    await server.startup()
    serving = asyncio.create_task(server.main_loop())
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await serving
        await server.shutdown()


def v2_body(texts: list[str], **more: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "input-0", "shape": [len(texts)], "datatype": "BYTES", "data": texts}], **more}


async def read_response(reader: asyncio.StreamReader) -> tuple[int, dict[str, str], bytes]:
    """One HTTP/1.1 response with a content-length, off a raw connection."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
    return int(head[0].split()[1]), headers, await reader.readexactly(int(headers["content-length"]))


def request_bytes(path: str, body: Any, *headers: str) -> bytes:
    """A POST as it goes over the wire."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"POST {path} HTTP/1.1", "host: test", f"content-length: {len(content)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + content
