"""Whatever a request is, its answer is one that /openapi.json describes, no 5xx, and comes; the connection stays.

schemathesis makes the requests, in a process per core; a real server for each task answers them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from tests.fuzz.memory import MIB, resident
from tests.fuzz.routes import fuzz
from tests.generative import tiny_generative
from tests.models import tiny
from tests.process import Server, serve

pytestmark = pytest.mark.slow

CASES = 500
ASK = ("POST /v1/models/{model}:predict", "POST /v2/models/{model}/infer")
RERANK = tuple(f"POST {prefix}/rerank" for prefix in ("/v1", "/v2", "/openai/v1", "/openai/v2"))
CONTROL = tuple(f"POST /v2/repository/models/{{model}}/{verb}" for verb in ("load", "unload"))
WRITE = (
    "POST /v1/completions",
    "POST /v1/chat/completions",
    "POST /v2/models/{model}/generate",
    "POST /v2/models/{model}/generate_stream",
)
CLASSES = ("truncation", "return_probabilities", "return_raw_logits", "return_labels")
KNOWS = {
    "text_embedding": ("truncation", "normalize", "dimensions"),
    "sequence_classification": (*CLASSES, "top_k"),
    "token_classification": (*CLASSES, "return_offsets_mapping", "aggregation_strategy"),
    "text_generation": ("max_tokens", "temperature", "seed", "stop"),
    "fill_mask": ("truncation", "return_probabilities", "return_raw_logits", "top_k", "targets"),
}
"""The request parameters that mean something to a task."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Executor]:
    with ProcessPoolExecutor(os.cpu_count(), get_context("spawn")) as processes:
        yield processes


def check(pool: Executor, server: Server, task: str, routes: Sequence[str], cases: int) -> dict[str, Any]:
    """Reports by route. Fails with the first requests that went wrong."""
    before = resident(server.process.pid)
    running = {route: pool.submit(fuzz, server.url, route, cases, KNOWS[task]) for route in routes}
    reports = {route: future.result() for route, future in running.items()}
    complaints = [complaint for report in reports.values() for complaint in report.complaints]
    assert not complaints, "\n".join(complaints[:5])
    for route, report in reports.items():
        assert report.cases >= cases, route
        assert report.connections == 1, f"{route}: the connection was closed after some answer"
    assert "Traceback" not in server.log
    assert server.get("/v2/health/live").status_code == 200
    assert resident(server.process.pid) - before < 300 * MIB
    return reports


def others(server: Server) -> list[str]:
    """The document's routes but for those that want a server of their own."""
    paths = server.get("/openapi.json").json()["paths"]
    routes = [f"{method.upper()} {path}" for path, item in paths.items() for method in item]
    assert set(routes) > {*ASK, *RERANK, *CONTROL}
    return [route for route in routes if route not in {*RERANK, *CONTROL}]


def test_a_few_requests_to_a_few_routes(pool: Executor, server: Server) -> None:
    routes = (*ASK, "POST /v1/embeddings", "POST /v1/rerank", "GET /v2/models/{model}/ready", "GET /metrics")
    check(pool, server, "text_embedding", routes, cases=20)


FAULT = """
from modelserve.tasks.text_embedding import TextEmbedding
preprocess = TextEmbedding.preprocess
def failing(self, instances, params):
    assert params.normalize is None
    return preprocess(self, instances, params)
TextEmbedding.preprocess = failing
"""


def test_a_fault_behind_one_parameter_is_found(pool: Executor) -> None:
    with (
        serve("--model_dir", tiny("bert"), "--model_name=m", code=FAULT) as server,
        pytest.raises(AssertionError, match="Internal Server Error"),
    ):
        check(pool, server, "text_embedding", ASK[:1], cases=50)


@pytest.mark.timeout(600)
def test_text_embedding_and_what_all_tasks_share(pool: Executor, server: Server) -> None:
    reports = check(pool, server, "text_embedding", others(server), CASES)
    for route in (*ASK, "POST /v1/embeddings", "POST /openai/v1/embeddings"):
        assert reports[route].statuses[200] >= CASES / 20, f"{route}: next to nothing of it was answered"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["sequence_classification", "token_classification", "fill_mask"])
def test_the_parameters_of_the_other_tasks(pool: Executor, task: str) -> None:
    """Fewer: what the routes share has been met already."""
    with serve("--model_dir", tiny("bert", task), "--model_name=m") as server:
        reports = check(pool, server, task, ASK, CASES // 2)
    for route, report in reports.items():
        assert report.statuses[200] >= CASES / 40, f"{route}: next to nothing of it was answered"


@pytest.mark.timeout(600)
def test_rerank(pool: Executor) -> None:
    with serve("--model_dir", tiny("bert", "sequence_classification", num_labels=1), "--model_name=m") as server:
        reports = check(pool, server, "sequence_classification", RERANK, CASES)
    for route, report in reports.items():
        assert report.statuses[200] >= CASES / 20, f"{route}: next to nothing of it was answered"


@pytest.mark.timeout(600)
def test_model_control(pool: Executor) -> None:
    with serve("--model_dir", tiny("bert"), "--model_name=m", "--enable_model_control") as server:
        check(pool, server, "text_embedding", CONTROL, CASES)


@pytest.mark.timeout(600)
def test_text_generation(pool: Executor) -> None:
    """Fewer, and short texts: one takes longer than a vector."""
    model = tiny_generative("llama", max_position_embeddings=64)
    with serve("--model_dir", model, "--model_name=m", "--task=text_generation") as server:
        reports = check(pool, server, "text_generation", WRITE, CASES // 10)
    for route, report in reports.items():
        assert report.statuses[200] >= CASES / 100, f"{route}: next to nothing of it was answered"
