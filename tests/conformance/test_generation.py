"""Generated text over every API: what transformers' `generate` writes, alone, in a crowd, whole and piece by piece."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from tests.conformance.apis import APIS, Refused, ask
from tests.conformance.serving import NAME, Serve, Served
from tests.generative import DECODERS, ENCODER_DECODERS, POSITIONS, tiny_generative

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROMPTS = [
    "The capital of France is",
    "A server answers many requests at once: it sorts them by length and runs them together, and",
    "Zoë and René drank café crème in Besançon. ☕ 語",
    "She said: ",
]
QUICK = ("llama", "t5")
"""One of each way to attend and to keep what was read."""

LONG = "The quick brown fox jumps over the lazy dog. " * 6
NEW = 24


@cache
def loaded(path: Path) -> tuple[Any, Any]:
    config = transformers.AutoConfig.from_pretrained(path)
    auto = transformers.AutoModelForSeq2SeqLM if config.is_encoder_decoder else transformers.AutoModelForCausalLM
    return auto.from_pretrained(path).eval(), transformers.AutoTokenizer.from_pretrained(path)


@cache
def expected(path: Path, prompt: str, tokens: int = NEW) -> str:
    """What transformers writes behind the prompt, greedily, alone."""
    model, tokenizer = loaded(path)
    asked = tokenizer(prompt, return_tensors="pt")
    with torch.inference_mode():
        ids = model.generate(**asked, max_new_tokens=tokens, do_sample=False, num_beams=1)[0]
    new = ids if model.config.is_encoder_decoder else ids[asked["input_ids"].shape[1] :]
    text: str = tokenizer.decode(new, skip_special_tokens=True)
    return text


async def complete(served: Served, prompt: Any, **fields: Any) -> dict[str, Any]:
    body = {"model": NAME, "prompt": prompt, "temperature": 0, "max_tokens": NEW, **fields}
    answer = await served.http.post("/v1/completions", json=body)
    said: dict[str, Any] = answer.json()
    if answer.status_code != 200:
        raise Refused(answer.status_code, said["error"]["message"])
    return said


async def stream(served: Served, path: str, body: dict[str, Any]) -> list[dict[str, Any]]:
    """The events of a stream, without the last, which says that it is done."""
    answer = await served.http.post(path, json={"model": NAME, "temperature": 0, "stream": True, **body})
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = [event.removeprefix("data: ") for event in answer.text.split("\n\n") if event]
    assert events.pop() == "[DONE]"
    return [json.loads(event) for event in events]


@pytest.mark.parametrize(
    "architecture",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DECODERS + ENCODER_DECODERS],
)
async def test_every_architecture_writes_what_generate_does(serve: Serve, architecture: str) -> None:
    path = tiny_generative(architecture)
    served = await serve(path)
    texts = [expected(path, prompt) for prompt in PROMPTS]
    assert len(set(texts)) == len(texts)
    alone = [(await complete(served, prompt))["choices"][0]["text"] for prompt in PROMPTS]
    assert alone == texts
    crowd = await asyncio.gather(*(complete(served, prompt) for prompt in PROMPTS * 3), complete(served, LONG))
    assert [answer["choices"][0]["text"] for answer in crowd] == [*texts * 3, expected(path, LONG)]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
@pytest.mark.parametrize("api", APIS)
async def test_v1_v2_and_grpc(serve: Serve, architecture: str, api: str) -> None:
    path = tiny_generative(architecture)
    answer = await ask(await serve(path), api, PROMPTS, max_tokens=NEW)
    assert answer.predictions == [expected(path, prompt) for prompt in PROMPTS]


@pytest.mark.parametrize("architecture", ["llama", "bart"])
async def test_pieces_join_to_the_text(serve: Serve, architecture: str) -> None:
    path = tiny_generative(architecture)
    events = await stream(await serve(path), "/v1/completions", {"prompt": PROMPTS[2], "max_tokens": 60})
    pieces = [event["choices"][0]["text"] for event in events]
    assert "".join(pieces) == expected(path, PROMPTS[2], 60)
    assert sum(piece != "" for piece in pieces) > 10
    assert [event["choices"][0]["finish_reason"] for event in events[:-1]] == [None] * (len(events) - 1)
    assert events[-1]["choices"][0]["finish_reason"] in ("stop", "length")


async def test_a_chat_is_its_template(serve: Serve) -> None:
    path = tiny_generative("llama")
    served = await serve(path)
    model, tokenizer = loaded(path)
    messages = [{"role": "user", "content": "How are you today?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    with torch.inference_mode():
        new = model.generate(ids, max_new_tokens=NEW, do_sample=False)[0, ids.shape[1] :]
    body = {"model": NAME, "messages": messages, "temperature": 0, "max_tokens": NEW}
    answer = (await served.http.post("/v1/chat/completions", json=body)).json()
    assert answer["choices"][0]["message"]["content"] == tokenizer.decode(new, skip_special_tokens=True)
    assert answer["usage"] == {
        "prompt_tokens": ids.shape[1],
        "completion_tokens": len(new),
        "total_tokens": ids.shape[1] + len(new),
    } | {key: value for key, value in answer["usage"].items() if value is None}
    events = await stream(served, "/v1/chat/completions", {"messages": messages, "max_tokens": NEW})
    deltas = [event["choices"][0]["delta"] for event in events]
    assert deltas[0]["role"] == "assistant"
    assert not any("role" in delta for delta in deltas[1:])
    assert "".join(delta.get("content") or "" for delta in deltas) == answer["choices"][0]["message"]["content"]


async def test_a_stop_string_ends_the_text_across_tokens(serve: Serve) -> None:
    path = tiny_generative("llama")
    whole = expected(path, PROMPTS[0], 40)
    stop = whole[15:19]
    served = await serve(path)
    for streamed in (False, True):
        if streamed:
            events = await stream(served, "/v1/completions", {"prompt": PROMPTS[0], "max_tokens": 40, "stop": [stop]})
            text = "".join(event["choices"][0]["text"] for event in events)
        else:
            answer = await complete(served, PROMPTS[0], max_tokens=40, stop=stop)
            text = answer["choices"][0]["text"]
            assert answer["choices"][0]["finish_reason"] == "stop"
        assert text == whole[: whole.index(stop)]


async def test_the_same_seed_writes_the_same_text_in_any_crowd(serve: Serve) -> None:
    served = await serve(tiny_generative("llama"))

    async def sampled(seed: int | None, prompt: str = PROMPTS[0]) -> str:
        answer = await complete(served, prompt, temperature=1.5, seed=seed)
        text: str = answer["choices"][0]["text"]
        return text

    alone = await sampled(7)
    crowd = await asyncio.gather(sampled(7), *(sampled(n, PROMPTS[n % 4]) for n in range(12)), sampled(7))
    assert crowd[0] == crowd[-1] == alone
    assert len({await sampled(None) for _ in range(4)}) > 1


async def test_several_choices_and_prompts(serve: Serve) -> None:
    path = tiny_generative("llama")
    answer = await complete(await serve(path), PROMPTS[:2], n=2)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    texts = [expected(path, prompt) for prompt in PROMPTS[:2] for _ in range(2)]
    assert [choice["text"] for choice in answer["choices"]] == texts


async def test_logprobs_are_the_models_own(serve: Serve) -> None:
    path = tiny_generative("llama")
    model, tokenizer = loaded(path)
    answer = await complete(await serve(path), PROMPTS[0], logprobs=3, echo=True, max_tokens=8)
    logprobs = answer["choices"][0]["logprobs"]
    prompt = tokenizer(PROMPTS[0])["input_ids"]
    with torch.inference_mode():
        ids = model.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False)
        scores = model(ids).logits[0].log_softmax(-1)
    told = [scores[i - 1, ids[0, i]].item() for i in range(1, ids.shape[1])]
    assert logprobs["token_logprobs"][0] is None
    assert logprobs["token_logprobs"][1:] == pytest.approx(told, abs=1e-3)
    best = [row.topk(3).values.tolist() for row in scores[len(prompt) - 1 : -1]]
    assert [sorted(top.values(), reverse=True)[:3] for top in logprobs["top_logprobs"][len(prompt) :]] == [
        pytest.approx(one, abs=1e-3) for one in best
    ]


@pytest.mark.parametrize("architecture", ["llama", "t5"])
async def test_more_than_the_context_is_refused_with_both_numbers(serve: Serve, architecture: str) -> None:
    served = await serve(tiny_generative(architecture))
    for fields in ({"prompt": PROMPTS[0], "max_tokens": POSITIONS + 1}, {"prompt": LONG * 20}):
        with pytest.raises(Refused, match=rf"tokens.*{POSITIONS}") as refused:
            await complete(served, **fields)
        assert refused.value.status == 400
        assert "truncation" not in str(refused.value)


async def test_what_means_nothing_here_is_refused(serve: Serve) -> None:
    served = await serve(tiny_generative("llama"))
    for api in APIS:
        with pytest.raises(Refused, match="aggregation_strategy means nothing to the task text_generation"):
            await ask(served, api, PROMPTS, aggregation_strategy="simple")
        with pytest.raises(Refused, match="temperature is 3"):
            await ask(served, api, PROMPTS, temperature=3.0)
    answer = await served.http.post("/v1/embeddings", json={"model": NAME, "input": "x"})
    assert answer.status_code == 400
    assert "does not support Embeddings API" in answer.json()["error"]["message"]
    with pytest.raises(Refused, match="vocabulary"):
        await complete(served, PROMPTS[0], logit_bias={"99999": 5})
