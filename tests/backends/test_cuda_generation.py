"""Models that write, on machines that have a GPU: the texts of `generate` on the CPU, alone and in a crowd; sampling;
grammars; half precision; a whole server."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from modelserve.backends.decoder import Decoder
from modelserve.backends.static import StaticEngine
from modelserve.generation import Sequence
from modelserve.runtime.iteration import IterationEngine
from tests.backends.causal import VOCABULARY, causal, greedy
from tests.backends.test_static import END, expected
from tests.backends.test_static import load as load_static
from tests.backends.test_static import make as make_static
from tests.backends.test_static import run as run_static
from tests.backends.test_static import sequence as static_sequence
from tests.generative import ENCODER_DECODERS, tiny_generative
from tests.process import serve
from tests.runtime.test_iteration import _poll, _prompts, _sequence, _sink

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")

DECODERS = ["llama", "llama-tied", "qwen2", "qwen3", "mistral", "gpt2", "phi", "phi3", "gemma", "gemma2", "gemma3"]


@contextmanager
def engine_of(model: Any, **values: Any) -> Iterator[IterationEngine]:
    engine = IterationEngine(
        Decoder(model.to("cuda")), end_ids=(2,), context_length=512, **({"max_running": 8} | values)
    )
    try:
        yield engine
    finally:
        engine.close()
        assert engine.join(60)


def run(engine: IterationEngine, sequences: list[Sequence]) -> list[list[int]]:
    for sequence in sequences:
        engine.start(sequence)
    ids = [_sink(sequence).ids for sequence in sequences]
    _poll(lambda: engine.running() == engine.waiting() == 0)
    return ids


@pytest.mark.parametrize("name", DECODERS)
def test_greedy_texts_are_those_of_generate_on_the_cpu(name: str) -> None:
    prompts = _prompts(10)
    limits = [random.Random(i).randint(1, 30) for i in range(len(prompts))]
    reference = causal(name)
    wanted = [greedy(reference, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    with engine_of(causal(name), max_running=4, chunk=16) as engine:
        assert "NVIDIA" in engine.describe()["device"]
        crowd = [_sequence(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        assert run(engine, crowd) == wanted
        assert run(engine, [_sequence(prompts[0], limits[0])]) == wanted[:1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_scores_stay_near(dtype: torch.dtype) -> None:
    """The logprobs of a prompt, beside those of the same weights in float32."""
    prompt = _prompts(1, 40)[0] + [9] * 120
    reference = causal("llama", dtype).float()
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt])).logits[0].log_softmax(-1)
    wanted = [float(logits[i, id]) for i, id in enumerate(prompt[1:])]
    with engine_of(causal("llama", dtype)) as engine:
        sequence = _sequence(prompt, 1, prompt_logprobs=True, logprobs=0)
        run(engine, [sequence])
        scores = _sink(sequence).scores
        assert scores is not None
        errors = [abs(token.logprob - want) for token, want in zip(scores[1:], wanted, strict=True)]
        assert max(errors) < (0.15 if dtype is torch.float16 else 1.0), max(errors)
        assert sum(errors) / len(errors) < 0.1


def test_a_seed_gives_the_same_text_whoever_runs_beside_it() -> None:
    wishes = {"temperature": 1.0, "top_p": 0.9, "top_k": 50, "frequency_penalty": 0.3, "ignore_eos": True}
    with engine_of(causal("llama")) as engine:
        prompts = _prompts(6)
        alone = [run(engine, [_sequence(prompt, 20, **wishes)])[0] for prompt in prompts]
        assert run(engine, [_sequence(prompt, 20, **wishes) for prompt in prompts]) == alone
        assert len({tuple(ids) for ids in alone}) == len(prompts)


def test_sampling_follows_the_distribution() -> None:
    """The first token of 2000 texts, beside the probabilities of the CPU: a total variation of chance's size."""
    model = causal("llama")
    prompt = _prompts(1)[0]
    with torch.inference_mode():
        wanted = copy.deepcopy(model)(torch.tensor([prompt])).logits[0, -1].softmax(-1)
    with engine_of(model, max_running=64) as engine:
        sequences = [_sequence(prompt, 1, temperature=1.0, ignore_eos=True) for _ in range(2000)]
        for seed, sequence in enumerate(sequences):
            sequence.seed = seed
        found = torch.zeros(VOCABULARY)
        for ids in run(engine, sequences):
            found[ids[0]] += 1 / len(sequences)
    assert float((found - wanted).abs().sum() / 2) < 0.12


def test_little_memory_evicts_and_goes_on() -> None:
    prompts = _prompts(6)
    reference = causal("llama")
    wanted = [greedy(reference, prompt, 60) for prompt in prompts]
    with engine_of(causal("llama"), max_running=6, kv_tokens=220) as engine:
        assert run(engine, [_sequence(prompt, 60) for prompt in prompts]) == wanted


@pytest.mark.parametrize("architecture", ENCODER_DECODERS)
def test_encoder_decoders_write_what_generate_does_on_the_cpu(architecture: str) -> None:
    model = load_static(architecture)
    prompts = [[5, 6, 7, END], [9] * 30 + [END], [20, 40, 60, 80, END]]
    engine: StaticEngine = make_static(load_static(architecture).to("cuda"))
    try:
        crowd = run_static(engine, *(static_sequence(prompt) for prompt in prompts))
    finally:
        engine.close()
        assert engine.join(60)
    assert crowd == [expected(model, prompt, 20) for prompt in prompts]


def test_a_server_on_the_gpu() -> None:
    with serve("--model_dir", str(tiny_generative("llama")), "--dtype", "float32") as server:
        info = server.get("/info").json()
        assert "NVIDIA" in info["device"]
        body = {"model": "model", "prompt": "The capital of France is", "max_tokens": 8, "temperature": 0}
        texts = {server.post("/v1/completions", body).json()["choices"][0]["text"] for _ in range(3)}
        assert len(texts) == 1
        schema = {"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}
        wish = {
            "type": "json_schema",
            "json_schema": {"name": "a", "schema": {**schema, "additionalProperties": False}},
        }
        body = {"model": "model", "prompt": "An object: ", "max_tokens": 60, "temperature": 1, "response_format": wish}
        answer = server.post("/v1/completions", body).json()["choices"][0]
        assert answer["finish_reason"] == "stop"
        assert json.loads(answer["text"])["a"] in ("x", "y")
