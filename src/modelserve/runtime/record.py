"""The one place where a finished request is counted and logged. Knows no protocol; runs on the event loop."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cache
from typing import Any

from prometheus_client import Counter, Histogram

from modelserve.config import Config
from modelserve.errors import ConfigError
from modelserve.runtime import metrics
from modelserve.types import InferResponse, Instance, Rows, Timings

log = logging.getLogger("modelserve.request")


def record(
    config: Config,
    *,
    api: str,
    task: str | None,
    code: str,
    id: str,
    total_s: float,
    method: str = "",
    path: str = "",
    texts: int = 0,
    response: InferResponse | None = None,
    request_texts: Sequence[Instance] | Rows = (),
) -> None:
    """Count a finished request and write its line.

    code: the HTTP status or the gRPC status's name. request_texts are logged only where --disable_log_requests=false
    says so, each (or each row) cut to --max_log_len characters.
    """
    count, duration = _children(api, task or "", code)
    count.inc()
    duration.observe(total_s)
    if not config.enable_latency_logging or not log.isEnabledFor(logging.INFO):
        return
    fields = _fields(api, code, id, total_s, method, path, texts, response)
    if config.access_log_format:
        line = config.access_log_format.format_map(fields)
    else:
        line = " ".join(f"{name}={value}" for name, value in fields.items() if value != "")
    if not config.disable_log_requests and request_texts:
        shown = [str(text)[: config.max_log_len] for text in request_texts]
        fields["request_texts"] = shown
        line = f"{line} request_texts={shown!r}"
    log.info(line, extra={"fields": fields})


def check_format(config: Config) -> None:
    """Raises ConfigError for an --access_log_format that no line can be written with."""
    fields = _fields("v1", "200", "", 0.0, "POST", "/", 1, None)
    try:
        (config.access_log_format or "").format_map(fields)
    except (KeyError, ValueError, IndexError, AttributeError, TypeError) as error:
        raise ConfigError(
            f"--access_log_format {config.access_log_format!r} cannot be used ({type(error).__name__}: {error}); "
            f"it may have {', '.join(f'{{{name}}}' for name in fields)}"
        ) from error


def _fields(
    api: str, code: str, id: str, total_s: float, method: str, path: str, texts: int, response: InferResponse | None
) -> dict[str, Any]:
    """What the line says, in order."""
    timings = response.timings if response is not None else Timings()
    return {
        "id": id,
        "api": api,
        "method": method,
        "path": path,
        "code": code,
        "texts": texts,
        "tokens": sum(response.tokens) if response is not None else 0,
        "queue_ms": round(timings.queue_s * 1e3, 2),
        "inference_ms": round(timings.inference_s * 1e3, 2),
        "total_ms": round(total_s * 1e3, 2),
    }


@cache
def _children(api: str, task: str, code: str) -> tuple[Counter, Histogram]:
    """The metrics of these labels, looked up once: all three have few values."""
    return metrics.requests.labels(api, task, code), metrics.request_seconds.labels(api)
