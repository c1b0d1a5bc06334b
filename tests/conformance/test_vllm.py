"""Texts that vLLM writes, over our APIs: a stand-in of it (tests/fake_vllm.py) has the tokens, the rest is ours."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import transformers

from modelserve.errors import LoadError
from tests.conformance.serving import NAME, Served, start
from tests.fake_vllm import install, next_token
from tests.generative import ENCODER_DECODERS, POSITIONS, tiny_generative

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPT = "The capital of France is"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    args = "--enable-lora --lora-modules lora=/adapters/x"
    python = install(tmp_path_factory.mktemp("vllm"))
    async with AsyncExitStack() as stack:
        yield await start(stack, tiny_generative("llama"), backend="vllm", vllm_python=python, vllm_args=args)


@cache
def tokenizer() -> Any:
    return transformers.AutoTokenizer.from_pretrained(tiny_generative("llama"))


def text(tokens: int, more: int = 0, prompt: str = PROMPT) -> str:
    ids = tokenizer()(prompt)["input_ids"]
    written: str = tokenizer().decode([next_token(ids, i) + more for i in range(tokens)], skip_special_tokens=True)
    return written


async def post(served: Served, path: str, **body: Any) -> Any:
    answer = await served.http.post(path, json={"model": NAME, **body})
    return answer.json() | {"status": answer.status_code}


async def test_completions(served: Served) -> None:
    whole, *crowd = await asyncio.gather(
        post(served, "/v1/completions", prompt=PROMPT, max_tokens=30),
        *(post(served, "/v1/completions", prompt=PROMPT + "x" * n, max_tokens=9, n=2) for n in range(20)),
    )
    assert whole["choices"][0]["text"] == text(30)
    assert whole["usage"]["completion_tokens"] == 30
    for n, answer in enumerate(crowd):
        assert [choice["text"] for choice in answer["choices"]] == [text(9, prompt=PROMPT + "x" * n)] * 2


async def test_a_stream(served: Served) -> None:
    body = {"model": NAME, "prompt": PROMPT, "max_tokens": 40, "stream": True}
    answer = await served.http.post("/v1/completions", json=body)
    events = [json.loads(event[6:]) for event in answer.text.split("\n\n") if event.startswith("data: {")]
    assert "".join(event["choices"][0]["text"] for event in events) == text(40)
    assert len(events) > 20
    assert events[-1]["choices"][0]["finish_reason"] == "length"


async def test_a_stop_string_is_ours(served: Served) -> None:
    whole = text(40)
    stop = whole[12:15]
    answer = await post(served, "/v1/completions", prompt=PROMPT, max_tokens=200, stop=stop)
    assert answer["choices"][0]["text"] == whole[: whole.index(stop)]
    assert (answer["choices"][0]["finish_reason"], answer["choices"][0]["stop_reason"]) == ("stop", stop)


async def test_echo_scores_the_prompt(served: Served) -> None:
    for tokens in (0, 3):
        answer = await post(served, "/v1/completions", prompt=PROMPT, max_tokens=tokens, echo=True, logprobs=2)
        told = answer["choices"][0]["logprobs"]
        assert len(told["tokens"]) == len(tokenizer()(PROMPT)["input_ids"]) + tokens
        assert told["token_logprobs"][0] is None
        assert all(logprob < 0 for logprob in told["token_logprobs"][1:])


async def test_chat_v1_and_v2(served: Served) -> None:
    chat = await post(served, "/v1/chat/completions", messages=[{"role": "user", "content": "x"}], max_tokens=5)
    assert chat["choices"][0]["message"]["content"]
    predicted = await served.http.post(f"/v1/models/{NAME}:predict", json={"instances": [PROMPT]})
    assert predicted.json()["predictions"][0].startswith(text(10))
    body = {"text_input": PROMPT, "parameters": {"max_tokens": 6}}
    generated = await served.http.post(f"/v2/models/{NAME}/generate", json=body)
    assert generated.json()["text_output"] == text(6)


async def test_an_adapter_is_a_model_of_openais_api(served: Served) -> None:
    answer = await post(served, "/v1/completions", model="lora", prompt=PROMPT, max_tokens=8)
    assert (answer["model"], answer["choices"][0]["text"]) == ("lora", text(8, more=1))
    chat = await post(served, "/v1/chat/completions", model="lora", messages=[{"role": "user", "content": "x"}])
    assert chat["model"] == "lora"
    cards = (await served.http.get("/openai/v1/models")).json()
    assert cards["models"] == [NAME]
    assert [(card["id"], card["root"], card["parent"]) for card in cards["data"]] == [
        (NAME, None, None),
        ("lora", "/adapters/x", NAME),
    ]
    assert (await served.http.get("/openai/v1/models/lora")).json() == cards["data"][1]
    generated = await served.http.post("/v2/models/lora/generate", json={"text_input": PROMPT})
    assert generated.json()["model_name"] == "lora"
    assert (await post(served, "/v1/completions", model="lorax", prompt="x"))["status"] == 404
    assert (await served.http.post("/v1/models/lora:predict", json={"instances": ["x"]})).status_code == 404


async def test_its_metrics_are_beside_ours(served: Served) -> None:
    for accept in ("", "application/openmetrics-text; version=1.0.0"):
        told = (await served.http.get("/metrics", headers={"accept": accept})).text.splitlines()
        families = [line.split()[2] for line in told if line.startswith("# HELP ")]
        assert "vllm:generation_tokens_total" in families
        for name in ("vllm:num_requests_waiting", "vllm:num_requests_running", "python_info"):
            assert families.count(name) == 1
        if not accept:  # in the other format prometheus_client itself writes samples with vllm_
            assert f'vllm:num_requests_running{{model_name="{NAME}"}} 0.0' in told
        assert ("# EOF" in told) == (told[-1] == "# EOF") == bool(accept)


async def test_info_says_what_writes(served: Served) -> None:
    said = (await served.http.get("/info")).json()
    assert (said["backend"], said["device"], said["dtype"]) == ("vllm", "cpu", "float32")
    assert "vLLM 0.32.0+fake on cpu" in said["engine"]
    assert said["max_length"] == POSITIONS


async def test_more_than_the_context_is_ours_to_refuse(served: Served) -> None:
    refused = await post(served, "/v1/completions", prompt=PROMPT, max_tokens=POSITIONS + 1)
    assert refused["status"] == 400
    assert str(POSITIONS) in refused["error"]["message"]


@pytest.mark.parametrize("architecture", [ENCODER_DECODERS[0], "gpt2"])
async def test_what_vllm_cannot_run_is_not_run_by_another(tmp_path: Path, architecture: str) -> None:
    async with AsyncExitStack() as stack:
        with pytest.raises(LoadError, match=r"^--backend vllm cannot serve this model: vLLM"):
            await start(stack, tiny_generative(architecture), backend="vllm", vllm_python=install(tmp_path))
