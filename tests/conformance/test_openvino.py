"""The openvino backend over the APIs, on a conversion that is in the repository: what transformers writes, and what the
huggingface backend answers to everything else."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import torch

from modelserve.errors import LoadError
from modelserve.runtime import conversions
from tests.conformance.apis import Refused
from tests.conformance.serving import NAME, Serve, Served
from tests.conformance.test_generation import LONG, NEW, PROMPTS, complete, expected, loaded, stream
from tests.converted import converted
from tests.generative import POSITIONS, tiny_generative

pytestmark = pytest.mark.asyncio(loop_scope="module")


async def openvino(serve: Serve, **flags: Any) -> Served:
    return await serve(converted()[1], **{"backend": "openvino", **flags})


async def test_greedy_is_generate_alone_and_in_a_crowd(serve: Serve) -> None:
    source = converted()[0]
    served = await openvino(serve)
    texts = [expected(source, prompt) for prompt in PROMPTS]
    assert len(set(texts)) == len(texts)
    assert [(await complete(served, prompt))["choices"][0]["text"] for prompt in PROMPTS] == texts
    crowd = await asyncio.gather(*(complete(served, prompt) for prompt in PROMPTS * 4), complete(served, LONG))
    assert [answer["choices"][0]["text"] for answer in crowd] == [*texts * 4, expected(source, LONG)]


async def test_pieces_join_to_the_text(serve: Serve) -> None:
    events = await stream(await openvino(serve), "/v1/completions", {"prompt": PROMPTS[2], "max_tokens": 60})
    pieces = [event["choices"][0]["text"] for event in events]
    assert "".join(pieces) == expected(converted()[0], PROMPTS[2], 60)
    assert sum(piece != "" for piece in pieces) > 10


async def test_the_same_seed_writes_the_same_text_in_any_crowd(serve: Serve) -> None:
    served = await openvino(serve)

    async def sampled(seed: int, prompt: str = PROMPTS[0]) -> str:
        answer = await complete(served, prompt, temperature=1.5, top_k=50, seed=seed)
        text: str = answer["choices"][0]["text"]
        return text

    alone = await sampled(7)
    crowd = await asyncio.gather(sampled(7), *(sampled(n, PROMPTS[n % 4]) for n in range(14)), sampled(7))
    assert crowd[0] == crowd[-1] == alone
    assert len(set(crowd)) > 10


def _end(text: str) -> dict[str, Any]:
    return {"stop": [text[12:16]], "max_tokens": 40}


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string", "maxLength": 8}},
    "required": ["city"],
    "additionalProperties": False,
}
FIELDS: list[dict[str, Any] | Callable[[str], dict[str, Any]]] = [
    _end,
    {"presence_penalty": 1.5, "frequency_penalty": 0.5, "max_tokens": 40},
    {"repetition_penalty": 1.3, "max_tokens": 40},
    {"logit_bias": {"70": 100}, "max_tokens": 5},
    {"min_tokens": 30, "max_tokens": 30, "ignore_eos": True},
    {"n": 3, "seed": 5, "temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.8, "top_p": 0.7, "seed": 3},
    {"logprobs": 4, "echo": True, "max_tokens": 6},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}, "max_tokens": 60},
    {"structured_outputs": {"choice": ["red", "green"]}, "max_tokens": 9},
]  # fmt: skip


@pytest.mark.parametrize(
    "fields", FIELDS, ids=lambda fields: next(iter(fields)) if isinstance(fields, dict) else "stop"
)
async def test_every_field_is_what_the_huggingface_backend_makes_of_it(serve: Serve, fields: Any) -> None:
    source = converted()[0]
    if callable(fields):
        fields = fields(expected(source, PROMPTS[0], 40))
    answers = []
    for served in (await openvino(serve), await serve(source, backend="huggingface")):
        answers.append((await complete(served, PROMPTS[0], **fields))["choices"])
    ours, theirs = answers
    assert [choice["text"] for choice in ours] == [choice["text"] for choice in theirs]
    assert [choice["finish_reason"] for choice in ours] == [choice["finish_reason"] for choice in theirs]
    if "logprobs" in fields:
        told = [choice["logprobs"]["token_logprobs"] for choice in (ours[0], theirs[0])]
        assert told[0][1:] == pytest.approx(told[1][1:], abs=1e-3)
    if "response_format" in fields:
        assert set(json.loads(ours[0]["text"])) == {"city"}


async def test_logprobs_are_the_models_own(serve: Serve) -> None:
    model, tokenizer = loaded(converted()[0])
    answer = await complete(await openvino(serve), PROMPTS[0], logprobs=0, echo=True, max_tokens=8)
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    with torch.inference_mode():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
        scores = model(ids).logits[0].log_softmax(-1)
    told = [scores[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1])]
    assert answer["choices"][0]["logprobs"]["token_logprobs"][1:] == pytest.approx(told, abs=1e-3)


async def test_a_chat_and_a_tool_that_must_be_called(serve: Serve) -> None:
    served = await openvino(serve)
    tool = {"type": "function", "function": {"name": "weather", "parameters": SCHEMA}}
    body = {"model": NAME, "messages": [{"role": "user", "content": "Bonn?"}], "max_tokens": 60, "temperature": 0}
    answer = await served.http.post("/v1/chat/completions", json=body | {"tools": [tool], "tool_choice": "required"})
    (call,) = answer.json()["choices"][0]["message"]["tool_calls"]
    assert call["function"]["name"] == "weather"
    assert set(json.loads(call["function"]["arguments"])) == {"city"}


async def test_limits(serve: Serve) -> None:
    served = await openvino(serve)
    with pytest.raises(Refused, match=rf"tokens.*{POSITIONS}") as refused:
        await complete(served, PROMPTS[0], max_tokens=POSITIONS + 1)
    assert refused.value.status == 400


async def test_little_memory_and_few_at_once_write_the_same(serve: Serve) -> None:
    """256 bytes a token: room for 160 of them, where a crowd has to take turns."""
    served = await openvino(serve, kv_cache_memory_bytes=256 * 160, max_num_seqs=6)
    info = (await served.http.get("/info")).json()
    assert (info["kv_tokens"], info["max_num_seqs"], info["max_length"]) == (160, 6, 160)
    crowd = await asyncio.gather(*(complete(served, prompt) for prompt in PROMPTS * 4))
    texts = [expected(converted()[0], prompt) for prompt in PROMPTS]
    assert [answer["choices"][0]["text"] for answer in crowd] == texts * 4


async def test_info_says_what_it_is(serve: Serve) -> None:
    info = (await (await openvino(serve)).http.get("/info")).json()
    assert (info["backend"], info["device"], info["dtype"]) == ("openvino", "cpu", "float32")
    assert "whose tokens were found to be transformers'" in info["engine"]
    assert info["openvino"].startswith("20")


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the model, whose conversion is in the cache."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    source, made = converted()
    shutil.copytree(source, tmp_path / "model")
    place = conversions.place(tmp_path / "model", "float32", "e")
    shutil.copytree(made, place)
    record = conversions.read(made)
    assert record is not None
    known = msgspec.structs.replace(record, identity=conversions.identity(tmp_path / "model"))
    (place / conversions.RECORD).write_bytes(msgspec.json.encode(known))
    return tmp_path / "model"


async def test_a_model_with_a_conversion_in_the_cache(serve: Serve, cached: Path) -> None:
    for flags in ({"backend": "openvino"}, {"device": "cpu"}):
        served = await serve(cached, **flags)
        info = (await served.http.get("/info")).json()
        assert (info["backend"], info["model_id"]) == ("openvino", str(cached))
        assert (await complete(served, PROMPTS[0]))["choices"][0]["text"] == expected(converted()[0], PROMPTS[0])


async def test_what_it_does_not_serve(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    llama = tiny_generative("llama")
    with pytest.raises(LoadError, match=rf"`modelserve convert --model_dir {llama} --to openvino` makes a conversion"):
        await serve(llama, backend="openvino")
    with pytest.raises(LoadError, match="decoder-only models; give --backend huggingface"):
        await serve(tiny_generative("t5"), backend="openvino")
    with pytest.raises(LoadError, match="--dtype float16 is not for the openvino backend; give float32 or bfloat16"):
        await openvino(serve, dtype="float16")


async def test_without_openvino(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(LoadError, match=r"openvino is not installed.*pip install 'modelserve\[openvino\]'"):
        await openvino(serve, threads=2)


async def test_nothing_is_left_of_who_goes_away(serve: Serve) -> None:
    served = await openvino(serve)
    body = {"model": NAME, "prompt": PROMPTS[0], "max_tokens": 200, "ignore_eos": True, "temperature": 1}
    asked = [asyncio.create_task(served.http.post("/v1/completions", json=body)) for _ in range(8)]
    await asyncio.sleep(0)

    async def running() -> float:
        lines = (await served.http.get("/metrics")).text.splitlines()
        (line,) = (line for line in lines if line.startswith(f'vllm:num_requests_running{{model_name="{NAME}"}}'))
        return float(line.rpartition(" ")[2])

    for task in asked:
        task.cancel()
    await asyncio.gather(*asked, return_exceptions=True)
    for _ in range(1000):
        if not await running():
            break
        await asyncio.sleep(0.02)
    assert await running() == 0
    assert (await complete(served, PROMPTS[0], max_tokens=NEW))["choices"][0]["text"] == expected(
        converted()[0], PROMPTS[0]
    )
