"""Probes, metrics and /info tell the truth of the models behind them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from modelserve.protocols.http import build_app
from tests.protocols.rest import StandIn, client, context


async def get(path: str, *models: StandIn, **headers: str) -> tuple[int, Any]:
    async with client(*models) as http:
        answer = await http.get(path, headers=headers)
    return answer.status_code, answer.json()


async def test_the_port_answers_whatever_the_model_does() -> None:
    assert await get("/", StandIn(stage="failed")) == (200, {"status": "alive"})


async def test_live_is_false_only_when_the_server_is_stuck() -> None:
    assert await get("/v2/health/live") == (200, {"live": True})
    assert await get("/v2/health/live", StandIn(stage="load")) == (200, {"live": True})
    assert await get("/v2/health/live", StandIn(lives=False)) == (503, {"live": False})


@pytest.mark.parametrize("stage", ["queued", "download", "load", "warm-up", "unloaded", "failed"])
async def test_ready_tells_stage_and_progress_until_the_model_answers(stage: str) -> None:
    model = StandIn(stage=stage, progress=0.4, reason=f"{stage} in progress")
    body = {"ready": False, "stage": stage, "progress": 0.4, "reason": f"{stage} in progress"}
    assert await get("/v2/health/ready", model) == (503, body)
    assert await get("/health", model) == (503, {"status": stage})


async def test_ready_is_of_the_model_that_is_furthest_behind() -> None:
    models = [StandIn(), StandIn(name="b", stage="load", progress=0.7), StandIn(name="c", stage="load", progress=0.2)]
    code, body = await get("/v2/health/ready", *models)
    assert (code, body["progress"]) == (503, 0.2)


async def test_ready_once_every_model_answers() -> None:
    assert await get("/v2/health/ready") == (200, {"ready": True})
    assert await get("/health") == (200, {"status": "ready"})


async def test_a_draining_server_is_not_ready_but_lives() -> None:
    serving = context(StandIn())
    serving.models.draining = True
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(serving)), base_url="http://test") as http:
        ready, live = await http.get("/v2/health/ready"), await http.get("/v2/health/live")
    assert (ready.status_code, ready.json()["stage"]) == (503, "draining")
    assert live.status_code == 200


async def test_other_workers_that_still_load_are_not_a_stuck_server() -> None:
    serving = context(StandIn())
    serving.models.others_ready = lambda: False
    async with httpx.AsyncClient(transport=httpx.ASGITransport(build_app(serving)), base_url="http://test") as http:
        ready, live = await http.get("/v2/health/ready"), await http.get("/v2/health/live")
    assert (ready.status_code, ready.json()["stage"]) == (503, "warm-up")
    assert ready.json()["reason"] == "another worker process is not ready yet"
    assert live.status_code == 200


async def test_a_stuck_server_is_not_ready() -> None:
    code, body = await get("/v2/health/ready", StandIn(lives=False))
    assert (code, body["ready"], body["stage"]) == (503, False, "stuck")


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("*/*", "text/plain; version=0.0.4; charset=utf-8"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text; version=1.0.0; charset=utf-8"),
    ],
)
async def test_metrics_in_the_format_that_is_asked_for(accept: str, content_type: str) -> None:
    async with client() as http:
        await http.post("/v1/models/m:predict", json={"instances": ["a"]})
        answer = await http.get("/metrics", headers={"accept": accept})
    assert answer.headers["content-type"].startswith(content_type)
    assert 'modelserve_requests_total{api="v1",code="200",task="text_embedding"}' in answer.text


async def test_info_is_what_the_model_says_of_itself() -> None:
    assert await get("/info") == (200, StandIn().describe())
    _, several = await get("/info", StandIn(name="a"), StandIn(name="b"))
    assert [model["model_name"] for model in several["models"]] == ["a", "b"]
