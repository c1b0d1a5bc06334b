"""As much of vLLM as our engine sees: its argument parser, its log, its processes, and its server in vLLM's own bytes.

`install` lays it out as a package `vllm`, and gives the path of a Python that has it. The bytes are templates of what a
real server said (tests/backends/vllm_recorded.json); tests/backends/test_vllm_chunks.py compares them. Its texts: token
number i behind a prompt is `next_token(prompt, i)`, and one more for an adapter, whose name begins with lora. This file
is a part of the package, too, and imports the standard library alone.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, Any] = json.loads(os.environ.get("FAKE_VLLM", "{}"))
"""Of `install`: start_s, lines and status of a start that fails, pace_s between tokens, tidy, architectures, device."""
__version__ = "0.32.0+fake"
END = 2

_STUBS = {
    "vllm/__init__.py": "from fake_vllm import ModelRegistry, __version__\n",
    "vllm/engine/arg_utils.py": "from fake_vllm import AsyncEngineArgs\n",
    "vllm/platforms/__init__.py": "from fake_vllm import current_platform\n",
    "vllm/utils/argparse_utils.py": "from fake_vllm import FlexibleArgumentParser\n",
    "vllm/entrypoints/launchers/cli_args.py": "from fake_vllm import make_arg_parser\n",
    "vllm/entrypoints/cli/main.py": "import sys, fake_vllm\nfake_vllm.main(sys.argv[2:])\n",
    "vllm/entrypoints/openai/api_server.py": "import sys, fake_vllm\nfake_vllm.main(sys.argv[1:])\n",
}


def install(directory: Path, *, command: bool = True, **settings: Any) -> Path:
    """command: whether its distribution is called vllm, as that of the builds for CPUs is not."""
    package = directory / "package"
    for name, text in _STUBS.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text(text)
    (package / "fake_vllm.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    if command:
        (package / "vllm-0.32.0.dist-info").mkdir()
        (package / "vllm-0.32.0.dist-info" / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: vllm\nVersion: 0.32.0\n"
        )
    (directory / "settings.json").write_text(json.dumps(settings))
    python = directory / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={package} FAKE_VLLM=$(cat {directory}/settings.json) exec {sys.executable} -P "$@"\n'
    )
    python.chmod(0o755)
    return python


def next_token(prompt: list[int], i: int) -> int:
    return (sum(prompt) + 7 * len(prompt) + 13 * i) % 200 + 100


class ModelRegistry:
    @staticmethod
    def get_supported_archs() -> list[str]:
        names: list[str] = SETTINGS.get("architectures", ["LlamaForCausalLM"])
        return names


class current_platform:
    device_type = SETTINGS.get("device", "cpu")


@dataclasses.dataclass
class AsyncEngineArgs:
    """Those that tests use, and those that are always said."""

    model: str = ""
    served_model_name: str = ""
    max_model_len: int = 0
    dtype: str = ""
    generation_config: str = ""
    structured_outputs_config: str = ""
    max_num_seqs: int = 0
    max_num_batched_tokens: int = 0
    kv_cache_memory_bytes: int = 0
    load_format: str = ""
    tokenizer: str = ""
    trust_remote_code: bool = False
    seed: int = 0
    block_size: int = 0
    tensor_parallel_size: int = 1
    enforce_eager: bool = False
    enable_lora: bool = False


_FRONTEND = {"uds": str, "uvicorn_log_level": str, "root_path": str, "disable_uvicorn_access_log": bool}


@dataclasses.dataclass
class _Lora:
    name: str
    path: str


class FlexibleArgumentParser(argparse.ArgumentParser):
    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        return super().parse_args([_dashed(word) for word in (sys.argv[1:] if args is None else args)], namespace)


def _dashed(word: str) -> str:
    flag, equals, value = word.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + equals + value


def make_arg_parser(parser: Any) -> Any:
    parser.add_argument("model_tag", nargs="?")
    fields = {field.name: type(field.default) for field in dataclasses.fields(AsyncEngineArgs)} | _FRONTEND
    for name, kind in fields.items():
        flag = "--" + name.replace("_", "-")
        if kind is bool:
            parser.add_argument(flag, action=argparse.BooleanOptionalAction)
        else:
            parser.add_argument(flag, type=kind)
    parser.add_argument("--lora-modules", nargs="+", type=lambda text: _Lora(*text.split("=", 1)))
    return parser


def main(argv: list[str]) -> None:
    """The server."""
    args = make_arg_parser(FlexibleArgumentParser()).parse_args(argv)
    print("(APIServer pid=1) INFO 11-26 13:00:00 [api_server.py:1] Initializing a V1 LLM engine", flush=True)
    time.sleep(SETTINGS.get("start_s", 0.0))
    for line in SETTINGS.get("lines", ()):
        print(line, flush=True)
    if "status" in SETTINGS:
        sys.exit(SETTINGS["status"])
    # An engine core and a worker below it, which do not end by themselves, or (tidy) when who started them does.
    sleep = "sys.stdin.read()" if SETTINGS.get("tidy") else "time.sleep(1000)"
    worker = f"[sys.executable, '-c', 'import sys, time; {sleep}']"
    core = f"import signal, subprocess, sys, time; signal.signal(15, signal.SIG_IGN); w = subprocess.Popen({worker}"
    engine = subprocess.Popen([sys.executable, "-c", f"{core}, stdin=subprocess.PIPE); {sleep}"], stdin=subprocess.PIPE)
    asyncio.run(_Server(args, engine).run())


class _Server:
    def __init__(self, args: Any, engine: subprocess.Popen[bytes]) -> None:
        self.args = args
        self.engine = engine
        self.written = 0
        self.aborted = 0
        self.open = 0
        self.asked: list[dict[str, Any]] = []

    async def run(self) -> None:
        stop = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
        server = await asyncio.start_unix_server(self.answer, self.args.uds)
        async with server:
            print("(APIServer pid=1) INFO 11-26 13:00:01 [launcher.py:1] Starting vLLM server on it", flush=True)
            await stop.wait()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            _, target, _ = head.split("\r\n")[0].split(" ")
            length = next(
                (int(line[15:]) for line in head.split("\r\n") if line.lower().startswith("content-length:")), 0
            )
            body = await reader.readexactly(length)
            if target == "/v1/completions":
                await self.complete(json.loads(body), reader, writer)
            elif target == "/health":
                self.send(writer, 200 if self.engine.poll() is None else 503, b"")
            elif target == "/v1/models":
                names = [self.args.served_model_name, *(one.name for one in self.args.lora_modules or ())]
                cards = [{"id": name, "max_model_len": self.args.max_model_len} for name in names]
                self.send(writer, 200, json.dumps({"object": "list", "data": cards}).encode())
            elif target == "/metrics":
                self.send(writer, 200, self.metrics().encode(), "text/plain; version=0.0.4; charset=utf-8")
            elif target == "/asked":
                self.send(writer, 200, json.dumps(self.asked).encode())
        writer.close()

    def send(self, writer: asyncio.StreamWriter, status: int, body: bytes, kind: str = "application/json") -> None:
        head = (
            f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\ncontent-type: {kind}\r\nconnection: close\r\n\r\n"
        )
        writer.write(head.encode() + body)

    def metrics(self) -> str:
        rows = {"num_requests_running": self.open, "num_requests_waiting": 0, "aborted": self.aborted}
        gauges = "".join(
            f'# HELP vllm:{n} .\n# TYPE vllm:{n} gauge\nvllm:{n}{{engine="0"}} {v}.0\n' for n, v in rows.items()
        )
        counter = "# HELP vllm:generation_tokens_total .\n# TYPE vllm:generation_tokens_total counter\n"
        own = "# HELP python_info .\n# TYPE python_info gauge\npython_info 1.0\n"
        return f'{own}{gauges}{counter}vllm:generation_tokens_total{{engine="0"}} {self.written}.0\n'

    async def complete(self, asked: dict[str, Any], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(asked)
        if (refused := SETTINGS.get("refuses")) and asked["prompt"] == refused["prompt"]:
            error = {"message": refused["message"], "type": "BadRequestError", "param": refused.get("param")}
            error["code"] = refused["status"]
            self.send(writer, refused["status"], json.dumps({"error": error}).encode())
            return
        if not asked.get("stream"):
            if dead := SETTINGS.get("cannot_write"):
                print(dead, flush=True)
                self.send(writer, 500, b'{"error": {"message": "EngineCore encountered an issue.", "code": 500}}')
                return
            self.send(writer, 200, json.dumps(whole(asked)).encode())
            return
        writer.write(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        gone = asyncio.ensure_future(reader.read(1))
        self.open += 1
        try:
            for event in events(asked):
                if gone.done():
                    self.aborted += 1
                    return
                data = event.encode()
                writer.write(b"%x\r\n%b\r\n" % (len(data), data))
                await writer.drain()
                self.written += 1
                await asyncio.sleep(SETTINGS.get("pace_s", 0.002))
            writer.write(b"0\r\n\r\n")
        finally:
            self.open -= 1
            gone.cancel()


def events(asked: dict[str, Any]) -> list[str]:
    """A streamed answer."""
    prompt, most = asked["prompt"], asked["max_tokens"]
    said = []
    for i in range(most):
        token = END if i == SETTINGS.get("ends_at") else next_token(prompt, i) + asked["model"].startswith("lora")
        ended = token in asked["stop_token_ids"] and i >= asked.get("min_tokens", 0)
        last = ended or i + 1 == most
        choice = {
            "index": 0,
            "text": f" {token}",
            "logprobs": scores(asked, [token], most) if "logprobs" in asked else None,
            "finish_reason": ("stop" if ended else "length") if last else None,
            "stop_reason": token if ended else None,
            "prompt_token_ids": prompt if i == 0 else None,
            "token_ids": [token],
        }
        chunk = {
            "id": "cmpl-1",
            "object": "text_completion",
            "created": 1,
            "model": asked["model"],
            "choices": [choice],
        }
        if last:
            chunk["system_fingerprint"] = "vllm-0.32.0+cpu-0"
        said.append(f"data: {json.dumps(chunk, separators=(',', ':'))}\n\n")
        if last:
            break
    return [*said, "data: [DONE]\n\n"]


def whole(asked: dict[str, Any]) -> dict[str, Any]:
    """An answer in one piece, with the prompt's scores."""
    prompt, most, top = asked["prompt"], asked["max_tokens"], asked.get("prompt_logprobs", 0)
    tokens = [next_token(prompt, i) for i in range(most)]
    choice = {
        "index": 0,
        "text": "".join(f" {token}" for token in tokens),
        "logprobs": scores(asked, tokens, most) if "logprobs" in asked else None,
        "finish_reason": "length",
        "stop_reason": None,
        "token_ids": tokens,
        "prompt_logprobs": [None, *({str(id): score(id, 1)} | rest(id, top) for id in prompt[1:])],
        "prompt_token_ids": prompt,
        "routed_experts": None,
    }
    usage = {"prompt_tokens": len(prompt), "completion_tokens": most, "total_tokens": len(prompt) + most}
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1, "model": asked["model"]}
    return head | {"choices": [choice], "service_tier": None, "usage": usage}


def logprob(token: int) -> float:
    return -math.log(2 + token % 7)


def score(token: int, rank: int) -> dict[str, Any]:
    return {"logprob": logprob(token), "rank": rank, "decoded_token": "x"}


def rest(token: int, top: int) -> dict[str, Any]:
    """The likeliest: 7 and 14 come first, whatever the text."""
    return {str(7 * i): score(7 * i, i) for i in range(1, top + 1) if 7 * i != token}


def scores(asked: dict[str, Any], tokens: list[int], most: int) -> dict[str, Any]:
    tops = [
        {token: logprob(token)} | {7 * i: logprob(7 * i) for i in range(1, asked["logprobs"] + 1)} for token in tokens
    ]
    return {
        "text_offset": [0 for _ in tokens],
        "token_logprobs": [logprob(token) for token in tokens],
        "tokens": [f"token_id:{token}" for token in tokens],
        "top_logprobs": [{f"token_id:{id}": one for id, one in top.items()} for top in tops],
    }
