"""Every metric, declared once. Knows no protocol; read by /metrics.

Names: KServe's four histograms, and modelserve_<thing>_<unit>. With --workers several processes write to the
directory of PROMETHEUS_MULTIPROC_DIR (set before this module is imported) and any of them answers for all.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder
from prometheus_client.multiprocess import MultiProcessCollector

_KSERVE = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
_POWERS = tuple(2.0**n for n in range(15))

preprocess_seconds = Histogram(
    "request_preprocess_seconds", "pre-process request latency", ["model_name"], buckets=_KSERVE
)
predict_seconds = Histogram("request_predict_seconds", "predict request latency", ["model_name"], buckets=_KSERVE)
postprocess_seconds = Histogram(
    "request_postprocess_seconds", "post-process request latency", ["model_name"], buckets=_KSERVE
)
explain_seconds = Histogram("request_explain_seconds", "explain request latency", ["model_name"], buckets=_KSERVE)

requests = Counter("modelserve_requests", "Finished requests", ["api", "task", "code"])
request_seconds = Histogram(
    "modelserve_request_duration_seconds", "From the request's head to its answer", ["api"], buckets=_SECONDS
)
queue_seconds = Histogram("modelserve_queue_duration_seconds", "Waiting for a forward pass", buckets=_SECONDS)
tokenization_seconds = Histogram("modelserve_tokenization_duration_seconds", "Tokenizing a request", buckets=_SECONDS)
inference_seconds = Histogram("modelserve_inference_duration_seconds", "Forward passes of a request", buckets=_SECONDS)
predictor_seconds = Histogram(
    "modelserve_predictor_request_duration_seconds",
    "Requests to the remote predictor, by outcome: ok, down, overloaded, timeout, failed",
    ["outcome"],
    buckets=_SECONDS,
)
queue_size = Gauge("modelserve_queue_size", "Texts accepted and in no pass yet", multiprocess_mode="livesum")
batch_size = Histogram("modelserve_batch_size", "Texts of a forward pass", buckets=_POWERS)
batch_tokens = Histogram("modelserve_batch_tokens", "Tokens of a forward pass", buckets=_POWERS)
waiting = Gauge(
    "modelserve_generation_waiting", "Texts taken on without a token yet", ["model_name"], multiprocess_mode="livesum"
)
running = Gauge("modelserve_generation_running", "Texts being written", ["model_name"], multiprocess_mode="livesum")
# The same two under vLLM's names, which autoscalers are set up with.
vllm_waiting = Gauge(
    "vllm:num_requests_waiting", "Texts without a token yet", ["model_name"], multiprocess_mode="livesum"
)
vllm_running = Gauge("vllm:num_requests_running", "Texts being written", ["model_name"], multiprocess_mode="livesum")
time_to_first_token = Histogram(
    "modelserve_time_to_first_token_seconds", "From a text's being taken on to its first token", buckets=_SECONDS
)
time_per_output_token = Histogram(
    "modelserve_time_per_output_token_seconds", "Between two tokens of a text", buckets=_SECONDS
)
tokens_generated = Counter("modelserve_tokens_generated", "Tokens written, end tokens included")
tokens = Counter("modelserve_tokens", "Tokens read, special tokens included")
tokens_truncated = Counter("modelserve_tokens_truncated", "Tokens cut off because a text was too long")
load_seconds = Gauge("modelserve_model_load_seconds", "From start to ready", multiprocess_mode="livemax")


beside: dict[str, Callable[[str], Awaitable[bytes]]] = {}
"""Prefix -> what tells, in the format that an Accept header asks for, the metrics of a process that this one keeps, of
which those of that prefix are shown."""


async def with_beside(body: bytes, content_type: str, accept: str) -> bytes:
    """What `render` gave, with those families of the others that are not in it."""
    if not beside:
        return body
    end = b"# EOF\n" if "openmetrics" in content_type else b""
    shown = set(_families(body))
    added = []
    for prefix, tell in beside.items():
        told = await tell(accept if end else "text/plain")
        for name, lines in _families(told).items():
            if name.startswith(prefix.encode()) and name not in shown:
                shown.add(name)
                added += lines
    return body.removesuffix(end) + b"".join(line + b"\n" for line in added) + end


def _families(exposition: bytes) -> dict[bytes, list[bytes]]:
    """The lines of each family, by its name; a family begins with its HELP."""
    found: dict[bytes, list[bytes]] = {}
    lines: list[bytes] = []
    for line in exposition.splitlines():
        if line.startswith(b"# HELP "):
            lines = found.setdefault(line.split(b" ", 3)[2], [])
        if line != b"# EOF":
            lines.append(line)
    return found


def render(accept: str = "") -> tuple[bytes, str]:
    """The metrics and their content type, in the exposition format that the Accept header asks for."""
    registry = REGISTRY
    if "PROMETHEUS_MULTIPROC_DIR" in os.environ:
        registry = CollectorRegistry()
        MultiProcessCollector(registry)
    encode, content_type = choose_encoder(accept)
    return encode(registry), content_type
