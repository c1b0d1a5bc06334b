"""Several worker processes behind one port: starts them, restarts those that die, ends them together.

Holds the sockets and serves nothing itself; imports neither torch nor a protocol, so it stays small. Workers report on
a shared board (worker.py) and write their metrics to one directory, from which any of them answers for all.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from modelserve import flags
from modelserve.backends.cores import cores
from modelserve.config import Config
from modelserve.errors import ConfigError
from modelserve.server import bind, tell_ports
from modelserve.worker import Board, variables

log = logging.getLogger("modelserve")

_BACKLOG = 2048
_SETTLED_S = 60.0
"""A worker that lived this long died of something new; its restarts begin without delay again."""
_LONGEST_PAUSE_S = 30.0
_SILENT_S = 60.0
"""An event loop that has not turned for so long never will. Imports of a start on a busy machine stay far below."""
_GRACE_S = 5.0
"""Beyond --shutdown_timeout, before a worker that does not end is killed."""


def run(config: Config) -> int:
    """Serve with --workers processes until SIGTERM or Ctrl-C; the exit status. Raises ConfigError."""
    if config.enable_model_control:
        raise ConfigError(
            "--enable_model_control goes with --workers 1: a load or unload would reach one of several processes"
        )
    with tempfile.TemporaryDirectory(prefix="modelserve-") as directory:
        return asyncio.run(_Supervisor(config, Path(directory)).run())


class _Supervisor:
    def __init__(self, config: Config, directory: Path) -> None:
        # Each worker has its share of the cores: more threads than cores spin at each other's barriers.
        self._config = replace(config, threads=config.threads or max(1, cores() // config.workers))
        self._directory = directory
        self._board = Board(directory / "board", config.workers)
        self._metrics = directory / "metrics"
        self._metrics.mkdir()
        self._processes: dict[int, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._status = 0

    async def run(self) -> int:
        self._listener = bind(self._config)
        self._listener.listen(_BACKLOG)
        held = self._hold_grpc_port()
        self._grpc_port = held.getsockname()[1] if held else 0
        self._parent_end, self._child_end = os.pipe()
        os.set_inheritable(self._parent_end, True)
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, self._stopping.set)
        tell_ports(self._listener.getsockname()[1], self._grpc_port if held else None)
        watching = asyncio.create_task(self._watch())
        async with asyncio.TaskGroup() as group:
            for index in range(self._config.workers):
                group.create_task(self._keep(index))
            group.create_task(self._end_on_stop())
        watching.cancel()
        return self._status

    def _hold_grpc_port(self) -> socket.socket | None:
        """The port is ours as long as this socket is bound; it never listens, so it takes no connection."""
        if not self._config.enable_grpc:
            return None
        held = socket.socket(socket.AF_INET6 if ":" in self._config.host else socket.AF_INET)
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            held.bind((self._config.host, self._config.grpc_port))
        except OSError as error:
            held.close()
            raise ConfigError(
                f"gRPC cannot listen on {self._config.host}:{self._config.grpc_port}: {error.strerror}; "
                "give another --grpc_port (0 takes a free one)"
            ) from error
        return held

    async def _keep(self, index: int) -> None:
        """One worker, and its successors."""
        pause_s = 0.0
        while not self._stopping.is_set():
            started = time.monotonic()
            process = self._processes[index] = await self._start(index)
            if self._stopping.is_set():
                process.kill()  # `_end_on_stop` may have looked before it was there; it serves nobody yet
            status = await process.wait()
            was_ready = self._board.ready(index)
            self._board.write(index, ready=False)
            self._forget_metrics(process.pid)
            if self._stopping.is_set():
                return
            if not was_ready and not self._board.complete() and status in (1, 2):
                self._status = status  # it has said itself why the model cannot be served; nor can its successor
                self._stopping.set()
                return
            lived_s = time.monotonic() - started
            pause_s = 0.0 if lived_s > _SETTLED_S else min(_LONGEST_PAUSE_S, max(0.5, 2 * pause_s))
            log.error(
                "worker %d (pid %d) ended with status %d; starting another in %g s", index, process.pid, status, pause_s
            )
            try:
                await asyncio.wait_for(self._stopping.wait(), pause_s)
            except TimeoutError:
                continue

    async def _start(self, index: int) -> asyncio.subprocess.Process:
        nobody_accepts = not any(self._board.ready(i) for i in range(self._config.workers) if i != index)
        first = index == 0 or self._board.complete()
        environment = flags.without_parameters(os.environ) | {
            "PROMETHEUS_MULTIPROC_DIR": str(self._metrics),
            **variables(
                INDEX=index,
                COUNT=self._config.workers,
                GRPC_PORT=self._grpc_port,
                ACCEPTS_AT_ONCE=int(first and nobody_accepts),
                HTTP_FD=self._listener.fileno(),
                PARENT_FD=self._parent_end,
                BOARD=self._directory / "board",
            ),
        }
        self._board.write(index, ready=False)
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "modelserve", "serve", *flags.to_args(self._config)),
            env=environment,
            pass_fds=(self._listener.fileno(), self._parent_end),
            start_new_session=True,  # Ctrl-C reaches the supervisor alone, which ends them in order
        )

    async def _watch(self) -> None:
        """Kill a worker whose event loop hangs; `_keep` starts another. (Of a hanging pass a worker ends itself.)"""
        while True:
            await asyncio.sleep(1)
            for index, process in self._processes.items():
                if process.returncode is None and self._board.silent_s(index) > _SILENT_S:
                    log.error("worker %d (pid %d) does not answer; killing it", index, process.pid)
                    process.kill()

    async def _end_on_stop(self) -> None:
        await self._stopping.wait()
        alive = [process for process in self._processes.values() if process.returncode is None]
        for process in alive:
            process.terminate()
        try:
            async with asyncio.timeout(self._config.shutdown_timeout + _GRACE_S):
                await asyncio.gather(*(process.wait() for process in alive))
        except TimeoutError:
            for process in alive:
                if process.returncode is None:
                    log.error("pid %d did not end in time; killing it", process.pid)
                    process.kill()

    def _forget_metrics(self, pid: int) -> None:
        """A dead worker's gauges are gone; its counters stay, since they were counted."""
        for file in self._metrics.glob(f"gauge_live*_{pid}.db"):
            file.unlink(missing_ok=True)
