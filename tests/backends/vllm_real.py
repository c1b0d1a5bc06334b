"""vLLM itself behind our APIs, on a CPU: what transformers writes, streams, ends, seeds, grammars, its life and death.

Not collected by itself: `make test-vllm` runs it, and makes its environment first (3.5 GB, some three minutes).
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
import transformers

from modelserve.backends.vllm_environment import probe
from modelserve.backends.vllm_keeper import _descendants
from modelserve.vllm_flags import NAMES, OURS, SWITCHES
from tests.backends.vllm_environment import adapter, merged, model, vllm_python
from tests.generative import POSITIONS
from tests.process import Server, serve

pytestmark = pytest.mark.timeout(600)

PROMPTS = [
    "The capital of France is",
    "A server answers many requests at once: it sorts them by length and runs them together, and",
    "Zoë and René drank café crème in Besançon. ☕ 語",
    "She said: ",
]
CLOSE = 1e-3
"""Two likeliest tokens this near are as good as one another: another order of sums may take the other."""


def arguments() -> list[str | Path]:
    memory = "--kv_cache_memory_bytes=268435456"
    return [
        "--model_dir",
        model(),
        "--model_name=m",
        "--backend=vllm",
        "--vllm_python",
        vllm_python(),
        memory,
        "--enforce-eager",
        "--max_num_seqs=16",
    ]


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve(*arguments(), ready=False) as server:
        server.wait_ready(400)
        pids = list(_descendants(server.process.pid))
        yield server
        assert server.stop() == 0
        gone(pids)


@cache
def reference() -> tuple[Any, Any]:
    path = model()
    return transformers.AutoModelForCausalLM.from_pretrained(path).eval(), transformers.AutoTokenizer.from_pretrained(
        path
    )


def greedy(prompt: str, tokens: int, lora: Path | None = None) -> tuple[list[int], int]:
    """What transformers writes, and how many tokens of it are beyond doubt."""
    network, tokenizer = reference()
    if lora is not None:
        network = merged(lora)
    asked = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        made = network.generate(
            **asked, max_new_tokens=tokens, do_sample=False, return_dict_in_generate=True, output_scores=True
        )
    ids = made.sequences[0, asked["input_ids"].shape[1] :].tolist()
    gaps = [float(top[0] - top[1]) for top in (scores[0].topk(2).values for scores in made.scores)]
    return ids, next((i for i, gap in enumerate(gaps) if gap < CLOSE), len(ids))


def complete(server: Server, prompt: str = PROMPTS[0], **body: Any) -> Any:
    answer = server.post(
        "/v1/completions", {"model": "m", "prompt": prompt, "temperature": 0, "max_tokens": 24, **body}
    )
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_greedy_text_is_what_transformers_writes(server: Server) -> None:
    _, tokenizer = reference()
    with ThreadPoolExecutor(16) as pool:
        crowd = list(pool.map(lambda prompt: complete(server, prompt)["choices"][0]["text"], PROMPTS * 4))
    for prompt, text in zip(PROMPTS * 4, crowd, strict=True):
        ids, sure = greedy(prompt, 24)
        assert text.startswith(tokenizer.decode(ids[:sure], skip_special_tokens=True).rstrip("�"))
        if sure == len(ids):
            assert text == tokenizer.decode(ids, skip_special_tokens=True)
    assert sum(greedy(prompt, 24)[1] for prompt in PROMPTS) > 48


def test_a_stream_joins_to_the_whole(server: Server) -> None:
    body = {"model": "m", "prompt": PROMPTS[2], "temperature": 0, "max_tokens": 60, "stream": True}
    events = [
        json.loads(event[6:])
        for event in server.post("/v1/completions", body).text.split("\n\n")
        if event.startswith("data: {")
    ]
    whole = complete(server, PROMPTS[2], max_tokens=60)["choices"][0]
    assert "".join(event["choices"][0]["text"] for event in events) == whole["text"]
    assert len(events) > 10
    assert events[-1]["choices"][0]["finish_reason"] == whole["finish_reason"]


def total(server: Server, name: str) -> float:
    lines = server.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(f"{name}{{"))


def test_vllm_stops_when_the_caller_leaves(server: Server) -> None:
    before = total(server, "vllm:generation_tokens_total")
    body = {"model": "m", "prompt": PROMPTS[0], "max_tokens": 240, "n": 8, "stream": True, "ignore_eos": True}
    with httpx.stream("POST", server.url + "/v1/completions", json=body, timeout=60) as answer:
        next(answer.iter_bytes())
    deadline = time.monotonic() + 10
    while total(server, "modelserve_generation_running"):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    until_it_rests = [-1.0, total(server, "vllm:generation_tokens_total")]
    while until_it_rests[-1] != until_it_rests[-2]:
        time.sleep(0.5)  # some steps
        until_it_rests.append(total(server, "vllm:generation_tokens_total"))
        assert time.monotonic() < deadline
    assert 0 < until_it_rests[-1] - before < 8 * 240 / 2


def test_its_metrics_are_beside_ours(server: Server) -> None:
    families = [line.split()[2] for line in server.get("/metrics").text.splitlines() if line.startswith("# HELP ")]
    assert "vllm:generation_tokens_total" in families
    assert len(families) == len(set(families))
    assert total(server, "vllm:num_requests_running") == 0


def test_the_same_seed_writes_the_same(server: Server) -> None:
    asked = {"temperature": 1.5, "top_p": 0.95, "max_tokens": 20}
    one, two, other = (complete(server, seed=seed, **asked)["choices"][0]["text"] for seed in (7, 7, 8))
    assert one == two != other
    several = complete(server, n=3, **asked)["choices"]
    assert len({choice["text"] for choice in several}) == 3


def test_logprobs_are_the_models_own(server: Server) -> None:
    network, tokenizer = reference()
    told = complete(server, max_tokens=6, logprobs=3, echo=True)["choices"][0]["logprobs"]
    ids, _ = greedy(PROMPTS[0], 6)
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    with torch.inference_mode():
        scores = network(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
    wanted = [float(scores[i, id]) for i, id in enumerate((prompt + ids)[1:])]
    assert told["token_logprobs"][0] is None
    assert told["token_logprobs"][1:] == pytest.approx(wanted, abs=1e-3)
    best = [row.topk(3).values.tolist() for row in scores[len(prompt) - 1 : -1]]
    found = [sorted(top.values(), reverse=True)[:3] for top in told["top_logprobs"][len(prompt) :]]
    assert found == [pytest.approx(one, abs=1e-3) for one in best]


def test_penalties_and_bias_change_the_text(server: Server) -> None:
    _, tokenizer = reference()
    plain = complete(server, max_tokens=12)["choices"][0]["text"]
    first = greedy(PROMPTS[0], 1)[0][0]
    assert complete(server, max_tokens=12, logit_bias={str(first): -100})["choices"][0]["text"] != plain
    forced = complete(server, max_tokens=3, logit_bias={"77": 100})["choices"][0]["text"]
    assert forced == tokenizer.decode([77] * 3)
    for field in ({"repetition_penalty": 3.0}, {"presence_penalty": 2.0, "frequency_penalty": 2.0}):
        assert isinstance(complete(server, max_tokens=12, **field)["choices"][0]["text"], str)


def test_a_stop_string_and_a_stop_token(server: Server) -> None:
    whole = complete(server, max_tokens=40)["choices"][0]["text"]
    stop = whole[15:19]
    stopped = complete(server, max_tokens=200, stop=stop)["choices"][0]
    assert stopped["text"] == whole[: whole.index(stop)]
    assert stopped["stop_reason"] == stop
    ids, _ = greedy(PROMPTS[0], 8)
    ended = complete(server, stop_token_ids=[ids[4]])
    assert ended["choices"][0]["stop_reason"] == ids[4]
    assert ended["usage"]["completion_tokens"] == ids.index(ids[4]) + 1


@pytest.mark.parametrize(
    ("asked", "check"),
    [
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
                "type": "object", "properties": {"yes": {"type": "boolean"}}, "required": ["yes"],
                "additionalProperties": False}}}},
            lambda text: isinstance(json.loads(text)["yes"], bool),
        ),
        ({"structured_outputs": {"regex": "[a-c]{3}x"}}, lambda text: len(text) == 4 and text.endswith("x")),
        ({"structured_outputs": {"choice": ["yes", "no"]}}, lambda text: text in ("yes", "no")),
        ({"structured_outputs": {"grammar": 'start: "a" ("b" | "c") /[0-9]/'}}, lambda text: text[:2] in ("ab", "ac")),
    ],
    ids=["schema", "regex", "choice", "lark"],
)  # fmt: skip
def test_a_structure_is_kept_to(server: Server, asked: dict[str, Any], check: Any) -> None:
    for temperature in (0, 1):
        choice = complete(server, max_tokens=40, temperature=temperature, **asked)["choices"][0]
        assert check(choice["text"]), choice
        assert choice["finish_reason"] == "stop"


def test_chat_and_what_is_refused(server: Server) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    answer = server.post("/v1/chat/completions", {"model": "m", "messages": messages, "max_tokens": 5})
    assert answer.json()["usage"]["completion_tokens"] == 5
    refused = server.post("/v1/completions", {"model": "m", "prompt": "x", "max_tokens": POSITIONS + 1})
    assert refused.status_code == 400
    full = server.post("/v1/completions", {"model": "m", "prompt": [5] * POSITIONS, "max_tokens": 0, "echo": True})
    assert full.status_code in (200, 400), full.text


def test_info(server: Server) -> None:
    said = server.get("/info").json()
    assert (said["backend"], said["dtype"], said["device"]) == ("vllm", "float32", "cpu")
    assert said["vllm"] in said["engine"]
    assert "vLLM" in server.log


def test_our_names_of_its_flags_are_its_own() -> None:
    found = probe(str(vllm_python()))
    assert {"LlamaForCausalLM", "Qwen3ForCausalLM"} <= set(found.architectures)
    assert "T5ForConditionalGeneration" not in found.architectures
    assert set(NAMES) > SWITCHES
    assert set(OURS) < set(NAMES)
    lora = ("--enable_lora", "--lora-modules", "a=/x", '{"name": "b", "path": "/y"}', "-tp", "2", "--response-role=x")
    given = probe(str(vllm_python()), lora)
    assert (given.wrong, given.foreign, given.tensor_parallel_size) == ("", ["response_role"], 2)
    assert given.adapters == [("a", "/x"), ("b", "/y")]
    assert probe(str(vllm_python()), ("--frobnicate=1",)).wrong == "unrecognized arguments: --frobnicate=1"


@pytest.mark.parametrize("which", ["server", "engine"])
def test_its_death_is_seen_and_leaves_nothing(which: str, tmp_path: Path) -> None:
    """And, of the first, that an adapter writes what the model with the adapter in its weights does."""
    place = adapter(tmp_path / "adapter")
    lora = ["--enable-lora", "--lora_modules", f"lora={place}"] if which == "server" else []
    with serve(*arguments(), *lora, ready=False) as server:
        server.wait_ready(400)
        if lora:
            ids, sure = greedy(PROMPTS[0], 24, place)
            text = complete(server, model="lora")["choices"][0]["text"]
            assert text.startswith(reference()[1].decode(ids[:sure], skip_special_tokens=True).rstrip("�"))
            assert sure > 5
            assert text != complete(server)["choices"][0]["text"]
            assert [card["id"] for card in server.get("/openai/v1/models").json()["data"]] == ["m", "lora"]
        pids = list(_descendants(server.process.pid))
        api, engine = pids[1], next(pid for pid in pids if b"EngineCore" in cmdline(pid))
        os.kill(engine if which == "engine" else api, signal.SIGKILL)
        killed = time.monotonic()
        while server.get("/v2/health/live").status_code == 200:
            assert time.monotonic() < killed + (1 if which == "server" else 3)
            time.sleep(0.02)
        assert server.post("/v1/completions", {"model": "m", "prompt": "x"}).status_code >= 500
        gone(pids)


def test_our_death_while_it_loads_leaves_nothing() -> None:
    with serve(*arguments(), ready=False) as server:
        deadline = time.monotonic() + 200
        while not any(b"EngineCore" in cmdline(pid) for pid in _descendants(server.process.pid)):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        pids = list(_descendants(server.process.pid))
        server.stop(signal.SIGKILL)
        gone(pids)


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def gone(pids: list[int], timeout_s: float = 20) -> None:
    deadline = time.monotonic() + timeout_s
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.02)
