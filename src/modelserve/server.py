"""One server process: opens the ports, loads the model, serves HTTP and gRPC, drains on SIGTERM.

Knows no protocol's wire format and no task. The ports are open, and tell the progress, before torch is imported.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
import uvloop

from modelserve import parent, registry
from modelserve.backends.memory import limit_arenas
from modelserve.config import Config
from modelserve.environment import PORTS_FILE
from modelserve.errors import ConfigError, LoadError, ModelServeError
from modelserve.protocols.connection import Connection
from modelserve.protocols.context import Context
from modelserve.protocols.http import build_app
from modelserve.runtime.model import Model, Models
from modelserve.runtime.record import check_format
from modelserve.worker import Worker

if TYPE_CHECKING:
    import grpc

log = logging.getLogger("modelserve")

_BACKLOG = 2048
_LINGER_S = 0.2
"""After the port is closed: time for requests that were on their way on open connections."""
_SWITCH_S = 0.001
"""Longest time that one thread keeps the interpreter while another wants it. The default of 5 ms is longer than a
health probe under load should wait for each hand-over between the event loop and a backend thread."""

_COLLECT_AFTER = 20_000
"""New objects before the youngest generation is collected: some hundred requests, instead of some ten. The imports of a
load make a million that stay, and looking through them again and again took a fifth of the start."""


def run(config: Config) -> int:
    """Serve until SIGTERM or Ctrl-C; the exit status.

    Raises ConfigError when the ports cannot be had or requests cannot be logged as told, LoadError.
    """
    check_format(config)
    limit_arenas()
    parent.end_with_it(config.shutdown_timeout)
    if config.workers > 1 and not Worker.is_one():
        return int(registry.load("modelserve.supervisor:run")(config))
    sys.setswitchinterval(_SWITCH_S)
    gc.set_threshold(_COLLECT_AFTER, 20, 100)
    loop = asyncio.new_event_loop if config.event_loop == "asyncio" else uvloop.new_event_loop
    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(_serve(config))
        logging.shutdown()
        # A download, load or pass that never returns must not keep the process: its thread cannot be ended, only left
        # behind. The runner's own end would wait for it.
        sys.stdout.flush()
        os._exit(0)


def bind(config: Config) -> socket.socket:
    """The HTTP socket, bound and not listening yet. Raises ConfigError."""
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((config.host, config.http_port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"HTTP cannot listen on {config.host}:{config.http_port}: {error.strerror}; "
            "give another --http_port (0 takes a free one)"
        ) from error
    return listener


def tell_ports(http_port: int, grpc_port: int | None) -> None:
    """Log the ports, and write them to the file that MODELSERVE_PORTS_FILE names, for whoever asked for port 0."""
    log.info("HTTP on port %d%s", http_port, "" if grpc_port is None else f", gRPC on port {grpc_port}")
    if path := os.environ.get(PORTS_FILE):
        written = Path(path).with_suffix(".part")
        written.write_text(json.dumps({"http_port": http_port, "grpc_port": grpc_port, "pid": os.getpid()}))
        written.replace(path)


class _Http(uvicorn.Server):
    """uvicorn without its own signals: draining is decided here."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield

    def in_flight(self) -> bool:
        return bool(self.server_state.tasks)

    def stop_listening(self) -> None:
        for server in self.servers:
            server.close()


async def _serve(config: Config) -> None:
    worker = Worker.from_environment()
    listener = worker.listener() if worker else bind(config)
    model = Model(config)
    models = Models([model])
    context = Context(config, models)
    http = _Http(_http_config(config, context))
    grpc_server: grpc.aio.Server | None = None
    stop = _signals()
    if config.max_asyncio_workers:
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(config.max_asyncio_workers))
    background = [load := asyncio.create_task(model.load())]
    try:
        if worker:
            background.append(asyncio.create_task(worker.attend(models, stop)))
            if not worker.accepts_at_once:
                await _loaded_or_stopped(load, stop)
        background.append(serving := asyncio.create_task(http.serve(sockets=[listener])))
        grpc_port = None
        if config.enable_grpc:
            start = registry.load("modelserve.protocols.grpc:start_grpc")
            port = worker.grpc_port if worker else config.grpc_port
            grpc_server, grpc_port = await start(context, port, so_reuseport=worker is not None)
        if not worker:
            tell_ports(listener.getsockname()[1], grpc_port)
        if sys.stderr.isatty() and not worker:
            from modelserve.progress import show  # rich takes a while, and logs need none

            background.append(asyncio.create_task(show(model)))
        await _loaded_or_stopped(load, stop)
        _spare_the_collector()
        if worker:
            worker.set_ready()
        await stop.wait()
        await _drain(config, models, http, grpc_server)
        http.should_exit = True
        await serving
    finally:
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        if grpc_server is not None:
            await grpc_server.stop(None)
        for served in models.index():
            served.close()


def _http_config(config: Config, context: Context) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(context),
        http=Connection,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here reads the caller's address
        backlog=_BACKLOG,
        timeout_keep_alive=config.timeout_keep_alive,
        timeout_graceful_shutdown=1,
    )


def _signals() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set; the second of them ends the process at once."""
    stop = asyncio.Event()

    def on_signal(number: int) -> None:
        if stop.is_set():
            os._exit(128 + number)
        log.info("%s: draining", signal.Signals(number).name)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal, number)
    return stop


def _spare_the_collector() -> None:
    """What is loaded stays: never walk through it again. A request leaves little that only the collector frees."""
    gc.collect()
    gc.freeze()


async def _loaded_or_stopped(load: asyncio.Task[None], stop: asyncio.Event) -> None:
    """Wait for the model, or for the signal to end. Raises what loading raised."""
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({load, stopping}, return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if not load.done():
        return
    try:
        load.result()
    except ModelServeError:
        raise
    except Exception as error:
        log.exception("loading failed")
        raise LoadError("the model could not be loaded; the log above says why") from error


async def _drain(config: Config, models: Models, http: _Http, grpc_server: grpc.aio.Server | None) -> None:
    """Not ready, no new connections, answers to all that was accepted; at most --shutdown_timeout seconds."""
    models.draining = True
    for model in models.index():
        model.drain()
    http.stop_listening()
    ending = asyncio.ensure_future(grpc_server.stop(config.shutdown_timeout)) if grpc_server else None
    try:
        async with asyncio.timeout(config.shutdown_timeout):
            await asyncio.sleep(_LINGER_S)
            while http.in_flight() or any(model.busy() for model in models.index()):  # noqa: ASYNC110  no event tells
                await asyncio.sleep(0.02)
            if ending is not None:
                await ending
    except TimeoutError:
        log.warning("requests were still running after --shutdown_timeout %g s", config.shutdown_timeout)
