"""Callers of a model that writes, dozens at once: they read to the end, leave in the middle, and ask for nonsense.

`python -m tests.fuzz.crowd 60` is a minute of them against a server of its own, checked, with figures.
Raw connections, one for each request: a client library would take the processor that the server wants.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.memory import MIB, resident
from tests.generative import tiny_generative
from tests.process import Server, serve

CALLERS = 64
BOUND_S = 60.0
"""For one answer: far more than any takes, so that it ends a hang and nothing else."""
ROOM = 48 * MIB
"""What the server may hold more in the last third than in the first."""
COMPLETIONS, CHAT, V2 = "/v1/completions", "/openai/v1/chat/completions", "/v2/models/m/generate"
PROMPTS = ["The capital of France", "naïve café, 語", "a", "One two three four five six seven", "Why? " * 20, ""]

_SAYS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello 👋"}]
_SCHEMA = {"type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"]}
BAD: list[tuple[str, bytes | dict[str, Any], int]] = [
    (COMPLETIONS, {"model": "m", "prompt": "x", "max_tokens": 1000}, 400),
    (COMPLETIONS, {"model": "m", "prompt": "word " * 500}, 400),
    (COMPLETIONS, b'{"model": "m", "prompt": "x"', 400),
    (COMPLETIONS, b"\xff\xfe", 400),
    (COMPLETIONS, {"model": "m", "prompt": "x", "nonsense": 1}, 400),
    (COMPLETIONS, {"model": "m", "prompt": [[1, 10**9]]}, 400),
    (COMPLETIONS, {"model": "m", "prompt": "x", "n": 129}, 400),
    (COMPLETIONS, {"model": "m", "prompt": "x", "logit_bias": {"99999": 1}, "stream": True}, 400),
    (COMPLETIONS, {"model": "m", "prompt": "x", "guided_regex": "("}, 400),
    (COMPLETIONS, {"model": "nobody", "prompt": "x"}, 404),
    (CHAT, {"model": "m", "messages": "x"}, 400),
    (CHAT, {"model": "m", "messages": _SAYS, "temperature": "hot"}, 400),
    (CHAT, {"model": "m", "messages": _SAYS, "max_tokens": 1000, "stream": True}, 400),
    (CHAT, {"model": "m", "messages": _SAYS, "response_format": {"type": "yaml"}}, 400),
    (V2, {"text_input": 7}, 400),
    (V2, {"text_input": "x", "parameters": {"max_tokens": 1000}}, 400),
    (f"{V2}_stream", {"text_input": "x", "nonsense": True}, 400),
]
"""What is refused, and how."""


@dataclass(frozen=True)
class Asked:
    """A request whose answer is always the same."""

    path: str
    body: dict[str, Any]


@dataclass
class Report:
    """What happened. texts: of each answer read to its end; memory: (seconds, bytes) of the server."""

    kinds: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    grown: int = 0
    """From the first third of the time to the last."""
    leak: int = 0
    """What it would have grown by if every request had left the keys and values of its answer behind."""
    drained_s: float = 0.0


def repeatable() -> list[Asked]:
    """Greedy texts and seeded ones, in every API."""
    asked = []
    for prompt in PROMPTS:
        for more in (
            {"temperature": 0},
            {"temperature": 0, "stop": ["e", "on"]},
            {"seed": 5},
            {"temperature": 0, "n": 2},
        ):
            asked.append(Asked(COMPLETIONS, {"model": "m", "prompt": prompt or [5, 6], "max_tokens": 24, **more}))
        says = [*_SAYS, {"role": "assistant", "content": "?"}, {"role": "user", "content": prompt}]
        asked.append(Asked(CHAT, {"model": "m", "messages": says, "temperature": 0, "max_tokens": 40}))
        asked.append(Asked(V2, {"text_input": prompt or "b", "parameters": {"temperature": 0, "max_tokens": 12}}))
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA | {"additionalProperties": False}}}
    asked.append(Asked(CHAT, {"model": "m", "messages": _SAYS, "temperature": 0, "response_format": form}))
    asked.append(
        Asked(
            COMPLETIONS, {"model": "m", "prompt": ["x", "yz"], "temperature": 0, "ignore_eos": True, "max_tokens": 100}
        )
    )
    return asked


def texts(body: dict[str, Any]) -> list[str]:
    """Of a whole answer of any API."""
    if "text_output" in body:
        return [body["text_output"]]
    return [choice["text"] if "text" in choice else choice["message"]["content"] for choice in body["choices"]]


def joined(events: list[bytes]) -> list[str]:
    """Of a stream's events."""
    found: dict[int, str] = {}
    for event in events:
        said = json.loads(event)
        if "text_output" in said:
            found[0] = found.get(0, "") + said["text_output"]
            continue
        for choice in said["choices"]:
            text = choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            found[choice["index"]] = found.get(choice["index"], "") + text
    return [found[index] for index in sorted(found)]


class Answer:
    """status, and the body's parts as they come."""

    def __init__(self, reader: asyncio.StreamReader) -> None:
        self.status = 0
        self._reader = reader
        self._length: int | None = None

    async def begin(self) -> None:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
        self.status = int(head.split()[1])
        found = re.search(r"content-length: (\d+)", head)
        self._length = int(found[1]) if found else None

    async def body(self) -> bytes:
        if self._length is not None:
            return await self._reader.readexactly(self._length)
        return b"".join([part async for part in self.parts()])

    async def parts(self) -> AsyncIterator[bytes]:
        """Of a chunked body; raises IncompleteReadError when it is torn off."""
        while size := int(await self._reader.readuntil(b"\r\n"), 16):
            yield await self._reader.readexactly(size)
            await self._reader.readexactly(2)
        await self._reader.readexactly(2)


@asynccontextmanager
async def asking(port: int, path: str, body: bytes | dict[str, Any]) -> AsyncIterator[Answer]:
    """The answer to a request on a connection of its own; whoever leaves the block leaves the server."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        yield Answer(reader)
    finally:
        writer.transport.abort()


async def streamed(port: int, asked: Asked, leave_after: int | None = None, pause_s: float = 0.0) -> list[str] | None:
    """The texts of a stream, None when it was left after so many parts."""
    path, body = (f"{V2}_stream", asked.body) if asked.path == V2 else (asked.path, asked.body | {"stream": True})
    data = b""
    async with asking(port, path, body) as answer:
        await answer.begin()
        if answer.status != 200:
            raise AssertionError(f"{answer.status} {await answer.body()!r}")
        count = 0
        async for part in answer.parts():
            data += part
            count += 1
            if count == leave_after:
                return None
            if pause_s:
                await asyncio.sleep(pause_s)
    events = [line.removeprefix(b"data: ") for line in data.split(b"\n\n") if line]
    if path != f"{V2}_stream" and events.pop() != b"[DONE]":
        raise AssertionError(f"a stream ended in {data[-200:]!r}")
    return joined(events)


async def _caller(
    port: int, rng: random.Random, known: list[tuple[Asked, list[str]]], until: float, report: Report
) -> None:
    """One caller, one request after the other."""
    while time.monotonic() < until:
        asked, expected = rng.choice(known)
        kind = rng.choices(("whole", "stream", "slow", "left", "left whole", "half", "bad"), (4, 4, 1, 4, 1, 1, 3))[0]
        try:
            async with asyncio.timeout(BOUND_S):
                wrong = await _one(port, rng, kind, asked, expected)
        except (OSError, EOFError, AssertionError, TimeoutError) as error:
            wrong = repr(error)
        report.kinds[kind] += 1
        if wrong:
            report.wrong.append(f"{kind} {asked}: {wrong}")


async def _one(port: int, rng: random.Random, kind: str, asked: Asked, expected: list[str]) -> str:
    """What was wrong, "" for nothing."""
    match kind:
        case "whole":
            async with asking(port, asked.path, asked.body) as answer:
                await answer.begin()
                body = await answer.body()
                found = texts(json.loads(body)) if answer.status == 200 else [f"{answer.status} {body!r}"]
        case "stream" | "slow":
            found = await streamed(port, asked, pause_s=0.01 if kind == "slow" else 0) or []
        case "left":
            # Also those that have their end by then: nothing is wrong with them.
            await streamed(port, asked, leave_after=rng.randint(1, 20))
            return ""
        case "left whole":
            async with asking(port, asked.path, asked.body | ({"n": 4} if asked.path != V2 else {})):
                await asyncio.sleep(rng.random() * 0.2)
            return ""
        case "half":
            data = json.dumps(asked.body).encode()
            _reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(f"POST {asked.path} HTTP/1.1\r\nhost: a\r\ncontent-length: {len(data)}\r\n\r\n".encode())
            writer.write(data[: rng.randrange(len(data))])
            await asyncio.sleep(rng.random() * 0.05)
            writer.transport.abort()
            return ""
        case _:
            path, bad, status = rng.choice(BAD)
            async with asking(port, path, bad) as answer:
                await answer.begin()
                body = await answer.body()
            return "" if answer.status == status and b"error" in body else f"{bad!r} got {answer.status} {body!r}"
    return "" if found == expected else f"{found} instead of {expected}"


async def crowd(server: Server, seconds: float, report: Report) -> list[tuple[Asked, list[str]]]:
    """All the callers, for so long. Returns what was asked alone before, and its texts."""
    known = []
    for asked in repeatable():
        answer = await asyncio.to_thread(server.post, asked.path, asked.body)
        assert answer.status_code == 200, answer.text
        known.append((asked, texts(answer.json())))
    began = time.monotonic()
    callers = [
        asyncio.create_task(_caller(server.http_port, random.Random(seed), known, began + seconds, report))
        for seed in range(CALLERS)
    ]
    while not all(caller.done() for caller in callers):
        report.memory.append((time.monotonic() - began, resident(server.process.pid)))
        await asyncio.sleep(0.2)
    await asyncio.gather(*callers)
    return known


def metric(server: Server, name: str) -> float:
    """The sum over its labels."""
    found = re.findall(rf"^{re.escape(name)}(?:{{[^}}]*}})? (\S+)$", server.get("/metrics").text, re.MULTILINE)
    assert found, name
    return sum(map(float, found))


LEFT = (
    "vllm:num_requests_running",
    "vllm:num_requests_waiting",
    "modelserve_generation_running",
    "modelserve_generation_waiting",
)


async def last_streams(server: Server) -> tuple[list[list[str] | None], float]:
    """Long streams that a SIGTERM meets; their texts, and how long the server took to end."""
    asked = Asked(
        COMPLETIONS, {"model": "m", "prompt": "To the end", "temperature": 0, "ignore_eos": True, "max_tokens": 200}
    )
    before = metric(server, "modelserve_tokens_generated_total")
    streams = [asyncio.create_task(streamed(server.http_port, asked)) for _ in range(16)]
    async with asyncio.timeout(BOUND_S):
        while await asyncio.to_thread(metric, server, LEFT[0]) < 16:
            assert not any(stream.done() for stream in streams), "the streams are too short for a signal to meet them"
    assert metric(server, "modelserve_tokens_generated_total") < before + 200
    began = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    found = await asyncio.gather(*streams)
    assert await asyncio.to_thread(server.process.wait, 30) == 0
    return found, time.monotonic() - began


def soak(seconds: float) -> Report:
    """Everything, checked: the answers, that nothing is left of anybody, the memory, the end."""
    model = tiny_generative("llama", num_key_value_heads=4, head_dim=64)
    report = Report()
    # oneDNN's caches fill for longer than a short run lasts, and would hide what this looks for; they are bounded.
    small = dict.fromkeys(("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"), "16")
    args = ("--model_dir", model, "--model_name=m", "--task=text_generation", "--max_queue_size=1000")
    with serve(*args, env=small) as server:
        before = metric(server, "modelserve_tokens_generated_total")
        asyncio.run(crowd(server, seconds, report))
        deadline = time.monotonic() + 10
        while any(metric(server, name) for name in LEFT):
            assert time.monotonic() < deadline, {name: metric(server, name) for name in LEFT}
            time.sleep(0.05)
        report.tokens = int(metric(server, "modelserve_tokens_generated_total") - before)
        assert server.get("/v2/health/live").status_code == server.get("/v2/health/ready").status_code == 200
        assert "Traceback" not in server.log, server.log[server.log.index("Traceback") - 500 :][:3000]
        first, last = _thirds(report.memory, seconds)
        report.grown = last - first
        # 4096 bytes a token: two layers, keys and values of 4 heads, 64 numbers of 4 bytes.
        report.leak = report.tokens * 4096 * 2 // 3
        texts, report.drained_s = asyncio.run(last_streams(server))
        assert texts[0] is not None
        assert len(texts[0][0]) > 200
        assert all(each == texts[0] for each in texts)
        assert "Traceback" not in server.log
    assert not report.wrong, "\n".join(report.wrong[:5])
    return report


def _thirds(memory: list[tuple[float, int]], seconds: float) -> tuple[int, int]:
    """The most that was held in the first third, and in the last."""
    return (
        max(size for at, size in memory if at <= seconds / 3),
        max(size for at, size in memory if at >= seconds * 2 / 3),
    )


if __name__ == "__main__":
    lasts = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
    done = soak(lasts)
    print(f"{done.kinds.total()} requests of {CALLERS} callers in {lasts:g} s: {dict(done.kinds)}")
    print(f"{done.tokens} tokens, {done.tokens / lasts:.0f} a second; drained in {done.drained_s:.1f} s")
    print("MiB in each twentieth:", [round(size / MIB) for _, size in done.memory[:: max(1, len(done.memory) // 20)]])
    print(f"the server grew by {done.grown / MIB:.1f} MiB to {done.memory[-1][1] / MIB:.0f} MiB")
    assert done.grown < ROOM, "its memory is not flat"
