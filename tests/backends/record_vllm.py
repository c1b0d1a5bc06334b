"""Records what a real vLLM server says, byte by byte, for tests/backends/test_vllm_chunks.py: vllm_recorded.json.

python -m tests.backends.record_vllm
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import transformers

from modelserve.backends.vllm_environment import probe
from modelserve.backends.vllm_http import Broken, Call, Client, request
from modelserve.backends.vllm_request import body
from modelserve.backends.vllm_server import VllmServer
from modelserve.config import Config
from modelserve.generation import Grammar, Sampling, Sequence
from modelserve.runtime.engine_vllm import await_ready
from modelserve.runtime.vllm_arguments import command, environ
from tests.backends.vllm_environment import model, vllm_python
from tests.generative import POSITIONS

FILE = Path(__file__).with_name("vllm_recorded.json")
_SCHEMA = '{"type":"object","properties":{"yes":{"type":"boolean"}},"required":["yes"],"additionalProperties":false}'


def cases() -> dict[str, Sequence]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(model())
    prompt = tokenizer("The capital of France is")["input_ids"]

    def one(max_tokens: int = 4, prompt: list[int] = prompt, ends: tuple[int, ...] = (2,), **sampling: Any) -> Sequence:
        sink: Any = None
        wanted = Sampling(**{"temperature": 0.0, **sampling})
        return Sequence(list(prompt), wanted, max_tokens, frozenset(ends), 3, sink, model_name="m")

    return {
        "greedy": one(),
        "logprobs": one(logprobs=2),
        "no top logprobs": one(logprobs=0),
        "scored": one(logprobs=2, prompt_logprobs=True),
        "only scored": one(max_tokens=0, logprobs=0, prompt_logprobs=True),
        "ended": one(max_tokens=40, ends=tuple(range(0, 600, 3))),
        "sampled": one(temperature=0.9, top_p=0.9, top_k=50, min_p=0.01, seed=5, logit_bias={9: 2.0}, min_tokens=2),
        "schema": one(max_tokens=40, grammar=Grammar("json_schema", _SCHEMA)),
        "lark": one(max_tokens=20, grammar=Grammar("lark", 'start: "a" ("b" | "c")')),
        "bad lark": one(max_tokens=20, grammar=Grammar("lark", "start: )")),
        "too long": one(max_tokens=4, prompt=[5] * POSITIONS),
    }


async def asked(client: Client, sent: bytes) -> dict[str, Any]:
    parts: list[bytes] = []
    done: asyncio.Future[int] = client.loop.create_future()

    def end(status: int, error: Broken | None) -> None:
        done.set_exception(error) if error else done.set_result(status)

    client.open(Call(request("POST", "/v1/completions", sent), lambda _, data: parts.append(data), end))
    status = await done
    return {"asked": json.loads(sent), "status": status, "told": b"".join(parts).decode()}


def main() -> None:
    python = str(vllm_python())
    found = probe(python)
    words = [
        "--served-model-name=m",
        f"--max-model-len={POSITIONS}",
        "--dtype=float32",
        "--generation-config=vllm",
        '--structured-outputs-config={"backend": "guidance"}',
        "--kv-cache-memory-bytes=268435456",
        "--enforce-eager",
    ]
    environment = environ(Config(), found)
    server = VllmServer(lambda socket: command(python, found, model(), socket, words), environment)
    client = Client(server.socket)
    try:
        await_ready(server, client, lambda stage, fraction: print(stage, fraction, flush=True))
        told = {name: client.wait_for(asked(client, body(one))) for name, one in cases().items()}
        _, models = client.wait_for(client.ask("/v1/models", timeout_s=10))
        _, metrics = client.wait_for(client.ask("/metrics", timeout_s=10))
    finally:
        server.stop()
        server.join(20)
        client.close()
    vllm = [line for line in metrics.decode().splitlines() if line.startswith(("# HELP vllm:", "# TYPE vllm:"))]
    cards = models.decode().replace(str(model().parent), "/models")  # nobody's directories
    recorded = {"version": found.version, "models": json.loads(cards), "metrics": vllm, "cases": told}
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(recorded), indent=1) + b"\n")


if __name__ == "__main__":
    main()
