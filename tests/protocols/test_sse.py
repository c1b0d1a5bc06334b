"""Streams over a real uvicorn: their head, errors before and after it, callers who leave or do not read, time-outs."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from modelserve.errors import InferenceFailed, InvalidRequest, NotReady
from modelserve.protocols.exchange import Exchange, Reply
from modelserve.protocols.http import endpoint
from modelserve.protocols.openai_errors import openai_error
from modelserve.protocols.sse import DONE, MEDIA, event
from tests.protocols.rest import context, request_bytes, serving

Source = Callable[[], AsyncGenerator[bytes, None]]
BOUND_S = 10


@asynccontextmanager
async def streaming(source: Source, **parameters: Any) -> AsyncIterator[int]:
    """The port of a server that streams what the source yields, at any path."""

    async def function(exchange: Exchange) -> Reply:
        await exchange.body()
        return Reply(b"", chunks=source())

    answer = endpoint(context(**parameters), "openai", function, openai_error)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        scope["path_params"] = {}
        await answer(scope, receive, send)

    async with serving(app) as port:
        yield port


def counted(code: str) -> float:
    labels = {"api": "openai", "task": "", "code": code}
    return REGISTRY.get_sample_value("modelserve_requests_total", labels) or 0.0


async def count_reaches(code: str, count: float) -> None:
    """A stream is counted once it has ended, which may be after its last byte was read."""
    async with asyncio.timeout(BOUND_S):
        while counted(code) < count:  # noqa: ASYNC110  the metric tells nobody
            await asyncio.sleep(0.01)
    assert counted(code) == count


async def post(port: int, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=BOUND_S) as http:
        return await http.post(f"http://127.0.0.1:{port}/", content=b"{}", headers=headers)


async def three() -> AsyncGenerator[bytes, None]:
    for number in range(3):
        yield event({"number": number})
    yield DONE


def events(answer: httpx.Response) -> list[Any]:
    blocks = answer.text.split("\n\n")
    assert blocks.pop() == ""
    return [json.loads(block.removeprefix("data: ")) for block in blocks if block != "data: [DONE]"]


async def test_events_come_with_the_head_of_a_stream_and_are_counted_once() -> None:
    before = counted("200")
    async with streaming(three) as port:
        answer = await post(port, **{"x-request-id": "abc", "accept-encoding": "gzip"})
        again = await post(port)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == f"{MEDIA}; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-request-id"] == "abc"
    assert answer.headers["transfer-encoding"] == "chunked"
    assert "content-encoding" not in answer.headers
    assert events(answer) == events(again) == [{"number": 0}, {"number": 1}, {"number": 2}]
    assert answer.text.endswith("\n\ndata: [DONE]\n\n")
    await count_reaches("200", before + 2)


async def test_a_stream_of_nothing_is_an_empty_answer() -> None:
    async def nothing() -> AsyncGenerator[bytes, None]:
        return
        yield b""

    async with streaming(nothing) as port:
        answer = await post(port)
    assert (answer.status_code, answer.content) == (200, b"")


@pytest.mark.parametrize(
    ("error", "code", "kind"),
    [
        (InvalidRequest("Too long.", param="prompt"), 400, "invalid_request_error"),
        (NotReady("Loading.", retry_after_s=5), 503, "server_error"),
    ],
)
async def test_an_error_before_the_first_event_is_an_ordinary_answer(error: Any, code: int, kind: str) -> None:
    async def fails() -> AsyncGenerator[bytes, None]:
        raise error
        yield b""

    before = counted(str(code))
    async with streaming(fails) as port:
        answer = await post(port)
    assert answer.status_code == code
    assert answer.headers["content-type"] == "application/json"
    told = answer.json()["error"]
    assert (told["message"], told["type"], told["param"]) == (error.message, kind, getattr(error, "param", None))
    assert answer.headers.get("retry-after") == ("5" if code == 503 else None)
    await count_reaches(str(code), before + 1)


async def test_an_error_after_it_is_the_last_event_and_what_is_counted() -> None:
    async def breaks() -> AsyncGenerator[bytes, None]:
        yield event({"number": 0})
        raise InferenceFailed("A step of the model failed.")

    before, fine = counted("500"), counted("200")
    async with streaming(breaks) as port:
        answer = await post(port)
    assert answer.status_code == 200
    first, last = events(answer)
    assert first == {"number": 0}
    assert last["error"]["message"] == "A step of the model failed."
    assert last["error"]["type"] == "server_error"
    assert "[DONE]" not in answer.text
    await count_reaches("500", before + 1)
    assert counted("200") == fine


async def test_a_fault_after_it_tells_nothing_of_the_inside(caplog: pytest.LogCaptureFixture) -> None:
    async def breaks() -> AsyncGenerator[bytes, None]:
        yield event({"number": 0})
        raise KeyError("secret")

    async with streaming(breaks) as port:
        answer = await post(port, **{"x-request-id": "abc"})
    assert "secret" not in answer.text
    assert "under the id abc" in events(answer)[-1]["error"]["message"]
    assert "KeyError" in caplog.text
    caplog.clear()


class Endless:
    """Events without end, of `size` bytes each: how many were made, and whether the source was closed."""

    def __init__(self, size: int = 10, pause_s: float = 0.0) -> None:
        self.made = 0
        self.begun, self.closed = asyncio.Event(), asyncio.Event()
        self._size, self._pause_s = size, pause_s

    async def source(self) -> AsyncGenerator[bytes, None]:
        try:
            while True:
                await asyncio.sleep(self._pause_s)
                self.made += 1
                self.begun.set()
                yield event("x" * self._size)
        finally:
            self.closed.set()


@pytest.mark.parametrize("after_first", [True, False])
async def test_a_caller_who_leaves_closes_the_source(after_first: bool, caplog: pytest.LogCaptureFixture) -> None:
    """Also one who waits for the first event, and while the source itself waits for something."""
    closed, waits = asyncio.Event(), asyncio.Event()

    async def waiting() -> AsyncGenerator[bytes, None]:
        try:
            if after_first:
                yield event(1)
            waits.set()
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    before = counted("499")
    async with streaming(waiting) as port:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/", {}))
        await asyncio.wait_for(waits.wait(), BOUND_S)
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(closed.wait(), BOUND_S)
        await count_reaches("499", before + 1)
    assert not [line for line in caplog.records if line.levelno >= logging.WARNING]


async def test_a_caller_who_leaves_in_the_middle_closes_the_source() -> None:
    endless = Endless()
    async with streaming(endless.source) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/", {}))
        await asyncio.wait_for(reader.readuntil(b"data:"), BOUND_S)
        writer.close()
        await asyncio.wait_for(endless.closed.wait(), BOUND_S)


async def test_a_caller_who_does_not_read_holds_the_source_back() -> None:
    endless = Endless(size=64 * 1024)
    async with streaming(endless.source) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/", {}))
        await asyncio.wait_for(endless.begun.wait(), BOUND_S)
        async with asyncio.timeout(BOUND_S):
            seen = 0
            while seen != endless.made:  # until it stands still
                seen = endless.made
                await asyncio.sleep(0.3)
        assert seen * 64 * 1024 < 64 * 1024 * 1024  # the buffers of both ends, and not what a second would make
        writer.close()
        await asyncio.wait_for(endless.closed.wait(), BOUND_S)
        del reader


async def test_a_stream_that_takes_too_long_ends_with_an_error() -> None:
    endless = Endless(pause_s=0.01)
    before = counted("504")
    async with streaming(endless.source, request_timeout=0.3) as port:
        answer = await post(port)
    assert "--request_timeout" in events(answer)[-1]["error"]["message"]
    assert len(events(answer)) > 1
    assert endless.closed.is_set()
    await count_reaches("504", before + 1)


async def test_a_first_event_that_takes_too_long_is_a_504() -> None:
    async def never() -> AsyncGenerator[bytes, None]:
        await asyncio.Event().wait()
        yield b""

    async with streaming(never, request_timeout=0.2) as port:
        answer = await post(port)
    assert answer.status_code == 504
    assert "--request_timeout" in answer.json()["error"]["message"]


async def test_a_second_request_follows_on_the_same_connection() -> None:
    async with streaming(three) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        answers = [await http.post("/", content=b"{}") for _ in range(3)]
    assert [len(events(answer)) for answer in answers] == [3, 3, 3]
