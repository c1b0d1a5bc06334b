"""Asks a server on this machine how it is: ready, live, and how many requests it has answered.

Plain HTTP, one connection a question. Knows no run. Blocking, and bounded.
"""

from __future__ import annotations

import http.client
import json
from typing import Any, NamedTuple

_TIMEOUT_S = 5.0
"""A server whose event loop is late by so much does not answer, in the words of a caller."""


class Answer(NamedTuple):
    """answered: whether there was an HTTP answer at all. live: False when it must be restarted."""

    answered: bool = False
    ready: bool = False
    live: bool = True
    stage: str = ""
    progress: float = 0.0
    reason: str = "nobody answers on its port"


class Address(NamedTuple):
    """Where this machine reaches a server that listens on `host`."""

    host: str
    port: int

    @classmethod
    def of(cls, listens_on: str, port: int) -> Address:
        return cls({"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(listens_on, listens_on), port)

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def health(address: Address) -> Answer:
    try:
        code, body = _get(address, "/v2/health/ready")
        if code == 200:
            return Answer(True, True, stage="ready", progress=1.0, reason="")
        said: dict[str, Any] = json.loads(body)
        live = _get(address, "/v2/health/live")[0] != 503
        stage, progress = str(said.get("stage", "")), float(said.get("progress", 0.0))
        return Answer(True, False, live, stage, progress, str(said.get("reason", f"it answers {code}")))
    except (OSError, http.client.HTTPException, ValueError, TypeError, AttributeError) as error:
        return Answer(reason=(error.strerror if isinstance(error, OSError) else "") or str(error) or "no HTTP")


def requests(address: Address) -> float | None:
    """Answered since it started, over all APIs; None when it does not say."""
    try:
        code, body = _get(address, "/metrics")
    except (OSError, http.client.HTTPException):
        return None
    if code != 200:
        return None
    lines = body.decode(errors="replace").splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith("modelserve_requests_total"))


def _get(address: Address, path: str) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address.host, address.port, timeout=_TIMEOUT_S)
    try:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()
