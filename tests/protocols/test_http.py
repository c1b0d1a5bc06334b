"""The edge around every route: who answers a path, errors, ids, limits, codings, callers who leave."""

from __future__ import annotations

import asyncio
import gzip
import json
import logging
import zlib
from typing import Any

import httpx
import numpy as np
import pytest

from modelserve import errors
from modelserve.protocols.http import build_app
from modelserve.runtime import metrics
from modelserve.types import InferRequest, InferResponse
from tests.protocols.rest import StandIn, client, context, lengths, listening, read_response, request_bytes, v2_body

PREDICT = "/v1/models/m:predict"


def counted(api: str, task: str, code: str) -> float:
    """Requests that the metrics have seen so far."""
    labels = {"api": api, "task": task, "code": code}
    return metrics.REGISTRY.get_sample_value("modelserve_requests_total", labels) or 0.0


INSTANCES = {"instances": ["Hello world"]}


def failing(error: Exception) -> StandIn:
    async def answer(request: InferRequest) -> InferResponse:
        raise error

    return StandIn(answer)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("GET", PREDICT, "POST"),
        ("PUT", PREDICT, "POST"),
        ("OPTIONS", PREDICT, "POST"),
        ("POST", "/v1/models/m", "GET, HEAD"),
        ("POST", "/v1/models/m:frobnicate", "GET, HEAD"),
        ("DELETE", "/v2/repository/index", "GET, HEAD, POST"),
        ("POST", "/v2/health/ready", "GET, HEAD"),
        ("POST", "/", "GET, HEAD"),
    ],
)
async def test_a_wrong_method_is_405_and_says_which_are_right(method: str, path: str, allow: str) -> None:
    async with client() as http:
        answer = await http.request(method, path)
    assert answer.status_code == 405
    assert answer.headers["allow"] == allow
    assert answer.json() == {"error": f"{path} answers {allow}, not {method}."}


@pytest.mark.parametrize("path", ["/nope", "/v2/models/m/stats", "/healthz", "/redoc", "//v2", "/v2/x/"])
async def test_an_unknown_path_is_404(path: str) -> None:
    async with client() as http:
        answer = await http.get(f"http://test{path}")
    assert answer.status_code == 404
    assert path in answer.json()["error"]


async def test_the_404_of_an_openai_path_has_openais_shape() -> None:
    async with client() as http:
        answer = await http.post("/openai/v1/audio/speech", json={})
    assert answer.status_code == 404
    assert set(answer.json()["error"]) >= {"message", "type", "code"}


async def test_a_trailing_slash_is_redirected_with_its_query() -> None:
    async with client() as http:
        answer = await http.get("/v2/?a=b")
        followed = await http.get("/v2/", follow_redirects=True)
    assert (answer.status_code, answer.headers["location"]) == (307, "/v2?a=b")
    assert followed.json()["name"] == "modelserve"


async def test_head_is_get_without_a_body() -> None:
    async with listening() as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        for path in ("/", "/v2/health/live", "/v1/models"):
            head, get = await http.head(path), await http.get(path)
            assert (head.status_code, head.content) == (200, b"")
            assert head.headers["content-length"] == get.headers["content-length"]


async def test_many_different_paths_do_not_pile_up() -> None:
    app = build_app(context())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as http:
        for index in range(1500):
            assert (await http.get(f"/v1/models/{index}")).status_code == 404
        assert (await http.get("/v1/models/m")).status_code == 200
        assert (await http.get("/v1/models/" + "x" * 5000)).status_code == 404


async def test_the_request_id_comes_back_or_is_made() -> None:
    model = StandIn()
    async with client(model) as http:
        given = await http.post(PREDICT, json=INSTANCES, headers={"x-request-id": "abc-1"})
        made = [await http.post(PREDICT, json=INSTANCES) for _ in range(2)]
        failed = await http.post(PREDICT, content=b"{", headers={"x-request-id": "abc-2"})
        long = await http.get("/v2", headers={"x-request-id": "x" * 5000})
    assert given.headers["x-request-id"] == "abc-1"
    assert failed.headers["x-request-id"] == "abc-2"
    ids = [answer.headers["x-request-id"] for answer in made]
    assert len(set(ids)) == 2
    assert [request.id for request in model.requests] == ["abc-1", *ids]
    assert len(long.headers["x-request-id"]) == 256


@pytest.mark.parametrize(
    ("error", "code", "header"),
    [
        (errors.InvalidRequest("No [MASK]."), 400, None),
        (errors.RequestTooLarge("Too many texts."), 413, None),
        (errors.Overloaded("The queue is full.", retry_after_s=3), 429, "3"),
        (errors.NotReady("Loading.", retry_after_s=5), 503, "5"),
        (errors.NotSupported("Not here."), 501, None),
        (errors.InferenceFailed("The forward pass failed."), 500, None),
    ],
)
@pytest.mark.parametrize(("path", "body"), [(PREDICT, INSTANCES), ("/v2/models/m/infer", v2_body(["a"]))])
async def test_an_error_is_its_sentence_in_one_shape(
    error: errors.ModelServeError, code: int, header: str | None, path: str, body: Any
) -> None:
    async with client(failing(error)) as http:
        answer = await http.post(path, json=body)
    assert answer.status_code == code
    assert answer.headers.get("retry-after") == header
    assert answer.headers["content-type"] == "application/json"
    assert answer.json() == {"error": error.message}


async def test_an_internal_fault_is_a_500_that_tells_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with client(failing(KeyError("secret text of another caller"))) as http:
        answer = await http.post(PREDICT, json=INSTANCES, headers={"x-request-id": "id-9"})
    assert answer.status_code == 500
    assert "id-9" in answer.json()["error"]
    assert "secret" not in answer.text
    assert "KeyError" not in answer.text
    (line,) = [line for line in caplog.records if line.levelno == logging.ERROR]
    assert "id-9" in line.getMessage()
    assert line.exc_info


async def test_every_error_keeps_the_connection() -> None:
    async def answer(request: InferRequest) -> InferResponse:
        if request.instances == ["boom"]:
            raise RuntimeError("boom")
        return await lengths(request)

    async with listening(StandIn(answer), payload_limit=10_000) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        codes = []
        for path, body in [
            (PREDICT, {"instances": ["boom"]}),
            (PREDICT, b"{"),
            (PREDICT, {"foo": 1}),
            ("/v1/models/nope:predict", INSTANCES),
            (PREDICT, {"instances": ["x" * 300_000]}),
            ("/v1/models/m:explain", INSTANCES),
            ("/nope", {"instances": ["x" * 300_000]}),
            ("/v1/models/m", b""),
            ("/v2/models/m/infer", {"inputs": []}),
            (PREDICT, INSTANCES),
        ]:
            writer.write(request_bytes(path, body))
            code, headers, content = await asyncio.wait_for(read_response(reader), 10)
            assert "connection" not in headers
            assert json.loads(content)
            codes.append(code)
        writer.close()
        await writer.wait_closed()
    assert codes == [500, 400, 400, 404, 413, 501, 404, 405, 400, 200]


async def test_an_announced_body_over_the_limit_is_refused_unread() -> None:
    async with listening(payload_limit=1000) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999\r\n\r\n".encode())
        code, _, content = await asyncio.wait_for(read_response(reader), 10)
        writer.close()
        await writer.wait_closed()
    assert code == 413
    assert "1000 bytes" in json.loads(content)["error"]


async def test_a_body_without_a_length_is_refused_once_it_is_over_the_limit() -> None:
    chunk = b"%x\r\n%s\r\n" % (1000, b"x" * 1000)
    async with listening(payload_limit=5000) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"POST {PREDICT} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n".encode() + chunk * 10)
        code, _, _ = await asyncio.wait_for(read_response(reader), 10)
        # The rest of the body is dropped as it comes, and the connection goes on.
        writer.write(chunk * 200 + b"0\r\n\r\n" + request_bytes(PREDICT, INSTANCES))
        again, _, _ = await asyncio.wait_for(read_response(reader), 10)
        writer.close()
        await writer.wait_closed()
    assert (code, again) == (413, 200)


async def test_a_body_may_come_in_pieces() -> None:
    whole = request_bytes(PREDICT, {"instances": ["x" * 200_000]})
    async with listening() as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for start in range(0, len(whole), 50_000):
            writer.write(whole[start : start + 50_000])
            await writer.drain()
            await asyncio.sleep(0.01)
        code, _, content = await asyncio.wait_for(read_response(reader), 10)
        writer.close()
        await writer.wait_closed()
    assert (code, json.loads(content)) == (200, {"predictions": [200_000]})


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_packed_body_is_read_within_the_limit(encoding: str, pack: Any) -> None:
    async with client(payload_limit=1000) as http:
        headers = {"content-encoding": encoding}
        good = await http.post(PREDICT, content=pack(json.dumps(INSTANCES).encode()), headers=headers)
        bomb = await http.post(PREDICT, content=pack(bytes(100_000)), headers=headers)
        damaged = await http.post(PREDICT, content=b"\x00\x01", headers=headers)
        unknown = await http.post(PREDICT, content=b"{}", headers={"content-encoding": "br"})
    assert good.json() == {"predictions": [11]}
    assert [answer.status_code for answer in (bomb, damaged, unknown)] == [413, 400, 415]


async def test_an_answer_is_packed_only_when_asked_and_large() -> None:
    async def numbers(request: InferRequest) -> InferResponse:
        return InferResponse("m", request.id, [np.arange(400.0) for _ in request.instances])

    async with client(StandIn(numbers)) as http:
        asked = await http.post(PREDICT, json=INSTANCES, headers={"accept-encoding": "gzip"})
        plain = await http.post(PREDICT, json=INSTANCES, headers={"accept-encoding": "identity"})
        small = await http.get("/v2", headers={"accept-encoding": "gzip"})
    assert asked.headers["content-encoding"] == "gzip"
    assert asked.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert "content-encoding" not in plain.headers
    assert "content-encoding" not in small.headers
    assert int(asked.headers["content-length"]) < int(plain.headers["content-length"]) / 2
    assert asked.json() == plain.json() == {"predictions": [list(np.arange(400.0))]}


async def test_dropped_tokens_are_told_in_a_header() -> None:
    async def cut(request: InferRequest) -> InferResponse:
        return InferResponse("m", request.id, [0], tokens=[5], tokens_dropped=12 * (request.instances != ["short"]))

    async with client(StandIn(cut)) as http:
        long = await http.post(PREDICT, json=INSTANCES)
        short = await http.post(PREDICT, json={"instances": ["short"]})
    assert long.headers["x-modelserve-tokens-dropped"] == "12"
    assert "x-modelserve-tokens-dropped" not in short.headers


async def test_a_request_that_takes_too_long_is_answered_504() -> None:
    ended = asyncio.Event()

    async def forever(request: InferRequest) -> InferResponse:
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value]
        finally:
            ended.set()

    async with client(StandIn(forever), request_timeout=0.05) as http:
        answer = await http.post(PREDICT, json=INSTANCES)
    assert answer.status_code == 504
    assert "0.05 s" in answer.json()["error"]
    assert ended.is_set()


async def test_a_timeout_of_the_models_own_is_a_fault_and_no_504() -> None:
    async with client(failing(TimeoutError())) as http:
        answer = await http.post(PREDICT, json=INSTANCES)
    assert answer.status_code == 500


@pytest.mark.parametrize(("path", "body"), [(PREDICT, INSTANCES), ("/v2/models/m/infer", v2_body(["a"]))])
async def test_a_caller_who_leaves_cancels_the_inference(path: str, body: Any) -> None:
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def forever(request: InferRequest) -> InferResponse:
        begun.set()
        try:
            return await asyncio.Event().wait()  # type: ignore[return-value]
        except asyncio.CancelledError:
            cancelled.set()
            raise

    api = path[1:3]
    before = counted(api, "text_embedding", "499")
    async with listening(StandIn(forever)) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes(path, body))
        await asyncio.wait_for(begun.wait(), 10)
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(cancelled.wait(), 10)
    assert counted(api, "text_embedding", "499") == before + 1


async def test_a_caller_who_leaves_before_the_body_is_there_is_no_fault(caplog: pytest.LogCaptureFixture) -> None:
    model = StandIn()
    before = counted("v1", "", "499")
    messages = [
        {"type": "http.request", "body": b'{"insta', "more_body": True},
        {"type": "http.disconnect"},
    ]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "method": "POST", "path": PREDICT, "headers": [], "query_string": b""}
    await build_app(context(model))(scope, receive, send)
    assert counted("v1", "", "499") == before + 1
    assert not sent
    assert not model.requests
    assert not [line for line in caplog.records if line.levelno >= logging.ERROR]


async def test_a_request_is_recorded_once_and_a_probe_never(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modelserve.request")
    before = counted("v1", "text_embedding", "200")
    async with client() as http:
        await http.post(PREDICT, json={"instances": ["a", "b"]}, headers={"x-request-id": "id-1"})
        for path in ("/v2/health/live", "/v2/health/ready", "/metrics", "/", "/v2/models/m/ready"):
            await http.get(path)
    assert counted("v1", "text_embedding", "200") == before + 1
    (line,) = [line for line in caplog.records if line.name == "modelserve.request"]
    for part in ("id=id-1", "api=v1", "code=200", "texts=2", f"path={PREDICT}"):
        assert part in line.getMessage()


async def test_no_path_breaks_a_line_of_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "modelserve.request")
    async with client() as http:
        answer = await http.post("/v1/models/x%0d%0aforged:predict", json=INSTANCES)
    assert answer.status_code == 404
    (line,) = [line.getMessage() for line in caplog.records if line.name == "modelserve.request"]
    assert "%0d%0aforged" in line.lower()
    assert len(line.splitlines()) == 1


async def test_thousands_of_rows_are_the_same_json_as_few() -> None:
    rows = np.random.default_rng(0).standard_normal((1000, 40)).astype(np.float32)

    async def answer(request: InferRequest) -> InferResponse:
        return InferResponse("m", request.id, list(rows[: len(request.instances)]))

    async with client(StandIn(answer)) as http:
        got = await http.post(PREDICT, json={"instances": ["x"] * 1000})
    assert got.json() == {"predictions": rows.astype(float).tolist()}


async def test_other_kinds_of_connection() -> None:
    app = build_app(context())
    sent: list[str] = []

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def receive() -> Any:
        return {"type": "lifespan.any"}

    await app({"type": "lifespan"}, receive, send)
    await app({"type": "websocket"}, receive, send)
    assert sent == ["lifespan.startup.complete", "lifespan.shutdown.complete", "websocket.close"]
