"""Asks one server how it is, quickly while it loads, and notes for other processes what it sees.

Decides nothing. One daemon thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from modelserve.deploy import notes, probe
from modelserve.deploy.meter import Meter
from modelserve.deploy.probe import Address, Answer
from modelserve.deploy.server_process import ServerProcess
from modelserve.deploy.target import Usage

log = logging.getLogger("modelserve.supervise")

_LOADING_S = 0.1
"""A small model loads in 3 s; who waits for it sees it move."""
_READY_S = 1.0
_USAGE_S = 5.0
"""Longer than a scheduler's tick by so much that a rate means something; /metrics and /proc are read for it."""


class Seen(NamedTuple):
    """ports: where it was asked; None while it has told none."""

    server: ServerProcess
    answer: Answer
    ports: notes.Ports | None


class Watch:
    """Until `end`. tell is called by the thread for each answer."""

    def __init__(
        self, server: ServerProcess, host: str, files: notes.Files, meter: Meter, tell: Callable[[Seen], None]
    ) -> None:
        self._server = server
        self._host = host
        self._path = files.live
        self._meter = meter
        self._tell = tell
        self._over = threading.Event()
        self._usage = Usage()
        self._usage_at = 0.0
        self._told_of_disk = False
        threading.Thread(target=self._work, name="watch", daemon=True).start()

    def end(self) -> None:
        self._over.set()

    def _work(self) -> None:
        answer = Answer()
        while not self._over.wait(_READY_S if answer.ready else _LOADING_S):
            ports = self._server.ports
            address = Address.of(self._host, ports.http_port) if ports else None
            answer = probe.health(address) if address else Answer(reason="it has not opened its ports yet")
            if self._over.is_set():
                return
            self._tell(Seen(self._server, answer, ports))
            self._note(answer, address)

    def _note(self, answer: Answer, address: Address | None) -> None:
        due = time.monotonic() - self._usage_at >= _USAGE_S
        if due:
            self._usage_at = time.monotonic()
            self._usage = self._meter.look(probe.requests(address) if address and answer.ready else None)
        elif answer.ready:
            return
        live = notes.Live(written=time.time(), stage=answer.stage, progress=answer.progress, **self._usage._asdict())
        try:
            notes.write(self._path, live)
            self._told_of_disk = False
        except OSError as error:
            if not self._told_of_disk:
                log.warning("%s could not be written: %s", self._path.name, error)
            self._told_of_disk = True
