"""Embeddings over every API equal sentence-transformers' of the same directory: real weights, prompts, token ids."""

from __future__ import annotations

import asyncio
import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling

from tests.conformance.apis import APIS, V2, Refused, apis, ask
from tests.conformance.reference import assert_same, encoded, output, tokenizer
from tests.conformance.serving import Serve
from tests.models import minilm, tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

NAME = "text_embedding"
TEXTS = [
    "Hello world",
    "a longer sentence that is padded differently from the first",
    "The capital of France is Paris.",
    "",
    "Zoë's café in São Paulo: 漢字 🙂 \t\n(3.5 %)",
    "A server answers many requests at once. " * 60,
]
"""The last is longer than the 256 tokens that the model's directory allows."""


@cache
def sentence_transformer(path: Path) -> SentenceTransformer:
    return SentenceTransformer(str(path), device="cpu")


def vectors(path: Path, texts: list[str] = TEXTS, **given: Any) -> list[list[float]]:
    """One text at a time."""
    return [sentence_transformer(path).encode(text, **given).tolist() for text in texts]


@pytest.mark.slow
async def test_minilm(serve: Serve, passes: list[list[int]]) -> None:
    path = minilm()
    served = await serve(path)
    expected = vectors(path)
    for api in apis(NAME):
        for index in (0, 1):
            assert_same((await ask(served, api, [TEXTS[index]])).predictions, [expected[index]])
        answer = await ask(served, api, TEXTS)
        assert_same(answer.predictions, expected)
        assert answer.dropped == len(encoded(path, TEXTS[-1], truncation=False)["input_ids"][0]) - 256
    passes.clear()
    crowd = [(api, text, wanted) for text, wanted in zip(TEXTS, expected, strict=True) for api in apis(NAME)]
    answers = await asyncio.gather(*(ask(served, api, [text]) for api, text, _ in crowd))
    for answer, (*_, wanted) in zip(answers, crowd, strict=True):
        assert_same(answer.predictions, [wanted])
    assert any(len(set(lengths)) > 1 for lengths in passes), passes


async def test_minilm_as_tensors(serve: Serve) -> None:
    path = minilm()
    served = await serve(path)
    batch = tokenizer(path)(TEXTS[:5], padding=True, return_tensors="np")
    longest = batch["input_ids"].shape[1]
    rows = [output(path, NAME, text).numpy() for text in TEXTS[:5]]
    expected = np.stack([np.pad(row, ((0, longest - len(row)), (0, 0))) for row in rows])
    for infer in V2.values():
        answer, _ = await infer(served, {name: batch[name] for name in ("input_ids", "attention_mask")}, {})
        np.testing.assert_allclose(answer["last_hidden_state"], expected, atol=1e-5, rtol=0)


async def test_token_ids_over_openai(serve: Serve) -> None:
    path = minilm()
    served = await serve(path)
    ids = [encoded(path, text)["input_ids"][0].tolist() for text in TEXTS]
    expected = vectors(path)
    for api in ("openai", "openai-base64"):
        assert_same((await ask(served, api, ids)).predictions, expected)
        assert_same((await ask(served, api, ids[1])).predictions, expected[1:2])


@pytest.fixture(scope="module")
def prompted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with two prompts, whose tokens do not count in the mean."""
    path = tmp_path_factory.mktemp("prompted") / "model"
    modules = [Transformer(str(tiny("bert"))), Pooling(32, "mean", include_prompt=False)]
    prompts = {"query": "query: ", "passage": "a passage of text: "}
    made = SentenceTransformer(modules=modules, prompts=prompts, default_prompt_name="query")
    made.save_pretrained(str(path), create_model_card=False)
    return path


async def test_prompts(serve: Serve, prompted: Path) -> None:
    served = await serve(prompted)
    for api in apis(NAME):
        assert_same((await ask(served, api, TEXTS)).predictions, vectors(prompted, prompt_name="query"))
    for api in APIS:
        answer = await ask(served, api, TEXTS, prompt_name="passage", normalize=True)
        assert_same(answer.predictions, vectors(prompted, prompt_name="passage", normalize_embeddings=True))
        with pytest.raises(Refused, match="no prompt named 'nope'") as refused:
            await ask(served, api, TEXTS, prompt_name="nope")
        assert refused.value.status in (400, "INVALID_ARGUMENT")


@pytest.mark.parametrize("length", [24, None, 64])
async def test_what_the_directory_says_of_texts(serve: Serve, tmp_path: Path, length: int | None) -> None:
    """max_seq_length, which counts more than the tokenizer's 32; do_lower_case, above a tokenizer that keeps case."""
    path = tmp_path / "model"
    modules = [Transformer(str(tiny("bert", cased=True))), Pooling(32, "mean")]
    SentenceTransformer(modules=modules).save_pretrained(str(path), create_model_card=False)
    rewrite(path / "tokenizer_config.json", model_max_length=32)
    rewrite(path / "sentence_bert_config.json", max_seq_length=length, do_lower_case=True)
    texts = [*TEXTS, TEXTS[1].upper()]
    expected = vectors(path, texts)
    served, cased = await serve(path), await serve(path, disable_lower_case=True)
    for api in apis(NAME):
        answer = await ask(served, api, texts)
        assert_same(answer.predictions, expected)
        assert (await ask(cased, api, texts[-1:])).predictions != answer.predictions[-1:]
    assert sentence_transformer(path).max_seq_length == (length or 32)


async def test_the_encoder_of_an_encoder_and_decoder(serve: Serve, tmp_path: Path) -> None:
    config = transformers.T5Config(vocab_size=500, d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4)
    transformers.T5ForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer(tiny("bert")).save_pretrained(tmp_path)
    served = await serve(tmp_path, task=NAME)
    expected = vectors(tmp_path, normalize_embeddings=True)
    for api in apis(NAME):
        assert_same((await ask(served, api, TEXTS)).predictions, expected)


def rewrite(file: Path, **values: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


async def test_flags(serve: Serve, prompted: Path) -> None:
    """--prompt_name, --pooling and --normalize, over what the directory says."""
    served = await serve(prompted, prompt_name="passage", pooling="cls", normalize=True)
    made = SentenceTransformer(
        modules=[Transformer(str(tiny("bert"))), Pooling(32, "cls", include_prompt=False)],
        prompts={"passage": "a passage of text: "},
    )
    expected = [made.encode(t, prompt_name="passage", normalize_embeddings=True).tolist() for t in TEXTS]
    for api in apis(NAME):
        assert_same((await ask(served, api, TEXTS)).predictions, expected)
