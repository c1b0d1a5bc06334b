"""Architectures that go their own way: odd attention, no attention, notes in the modules, heads that look for a token.

How each may share passes is found out at load; whatever that comes to, a text keeps the answer that it gets alone.
Random models with BERT's tiny tokenizer.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from modelserve.backends.huggingface import HuggingFaceBackend
from tests.conformance.apis import ask
from tests.conformance.reference import AUTO, assert_same, prediction, tokenizer
from tests.conformance.serving import Serve
from tests.models import tiny

pytestmark = pytest.mark.asyncio(loop_scope="module")

TEXTS = [
    "The capital of France is [MASK].",
    "[MASK]",
    "[MASK] met Zoë in São, near the old bank; nobody knew why (3.5 % more)!",
    "a [MASK] and the cat sat on the mat near the door",
    "the [MASK] [MASK] sat on [MASK] mat" + " and the dog slept near the door" * 3,
]

LIKE_BERT: dict[str, Any] = {
    "vocab_size": 500,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "initializer_range": 0.3,
}
LIKE_ROBERTA = {**LIKE_BERT, "max_position_embeddings": 130, "pad_token_id": 1}
LIKE_GPT2 = {"vocab_size": 500, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128, "eos_token_id": 3}
LIKE_XLM = {"vocab_size": 500, "emb_dim": 32, "n_layers": 2, "n_heads": 4, "max_position_embeddings": 128, "n_langs": 1}
LIKE_BART = {
    "vocab_size": 500,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
}
LIKE_T5 = {
    "vocab_size": 500,
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 2,
    "num_heads": 4,
    "pad_token_id": 0,
    "eos_token_id": 3,
    "decoder_start_token_id": 0,
}
FUNNEL = {
    "vocab_size": 500,
    "block_sizes": [1, 1],
    "num_decoder_layers": 1,
    "d_model": 32,
    "n_head": 4,
    "d_head": 8,
    "d_inner": 64,
    "pad_token_id": 0,
}
XLNET = {"vocab_size": 500, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 64, "pad_token_id": 0}

MODELS: dict[str, dict[str, Any]] = {
    "bart": LIKE_BART,
    "big_bird": {**LIKE_BERT, "attention_type": "original_full"},
    "camembert": LIKE_ROBERTA,
    "convbert": {**LIKE_BERT, "embedding_size": 16, "head_ratio": 2, "conv_kernel_size": 3},
    "data2vec-text": LIKE_ROBERTA,
    "deberta": {**LIKE_BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 16},
    "ernie": LIKE_BERT,
    "esm": {**LIKE_BERT, "mask_token_id": 4, "position_embedding_type": "rotary", "token_dropout": False},
    "eurobert": {**LIKE_BERT, "head_dim": 8, "num_key_value_heads": 4},
    "fnet": LIKE_BERT,
    "funnel": FUNNEL,
    "gpt2": {**LIKE_GPT2, "pad_token_id": 0},
    "ibert": LIKE_ROBERTA,
    "layoutlm": LIKE_BERT,
    "llama": {**LIKE_BERT, "num_key_value_heads": 4},
    "longformer": {**LIKE_ROBERTA, "attention_window": [8, 8]},
    "luke": {**LIKE_ROBERTA, "entity_vocab_size": 10, "entity_emb_size": 8},
    "megatron-bert": LIKE_BERT,
    "mra": LIKE_BERT,
    "nomic_bert": LIKE_BERT,
    "qwen2": {**LIKE_BERT, "num_key_value_heads": 4},
    "rembert": {**LIKE_BERT, "input_embedding_size": 16, "output_embedding_size": 16},
    "roberta-prelayernorm": LIKE_ROBERTA,
    "roformer": {**LIKE_BERT, "embedding_size": 32, "rotary_value": False},
    "squeezebert": {**LIKE_BERT, "embedding_size": 32},
    "t5": LIKE_T5,
    "xlm": {**LIKE_XLM, "pad_token_id": 2, "pad_index": 2},
    "xlnet": XLNET,
    "xmod": {**LIKE_ROBERTA, "languages": ["en_XX"], "default_language": "en_XX"},
    "yoso": LIKE_BERT,
}
QUICK = [
    ("bart", "sequence_classification"),
    ("convbert", "token_classification"),
    ("esm", "fill_mask"),
    ("fnet", "text_embedding"),
    ("funnel", "sequence_classification"),
    ("gpt2", "sequence_classification"),
    ("gpt2", "text_embedding"),
    ("longformer", "token_classification"),
    ("t5", "sequence_classification"),
    ("xlm", "text_embedding"),
    ("xlnet", "sequence_classification"),
]
WITHOUT = {
    "bart": ("token_classification", "fill_mask"),
    "gpt2": ("fill_mask",),
    "llama": ("fill_mask",),
    "qwen2": ("fill_mask",),
    "t5": ("fill_mask", "text_embedding"),
    "xlnet": ("fill_mask",),
}
"""Tasks that transformers has no class for, or that would generate."""
ALL = [(name, task) for name in MODELS for task in AUTO if task not in WITHOUT.get(name, ())]


def made(directory: Path, architecture: str, task: str) -> Path:
    """The directory of such a model. Its tokenizer gives token types where the network counts them."""
    labels = {} if task in ("fill_mask", "text_embedding") else {"num_labels": 3}
    config = transformers.AutoConfig.for_model(architecture, **MODELS[architecture], **labels)
    config.architectures = []  # from_config looks through it
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        getattr(transformers, AUTO[task]).from_config(config).eval().save_pretrained(directory)
    tokenizer(tiny("bert")).save_pretrained(directory)
    if not (getattr(config, "type_vocab_size", None) or 0) > 1:
        file = directory / "tokenizer_config.json"
        names = {"model_input_names": ["input_ids", "attention_mask"]}
        file.write_text(json.dumps({**json.loads(file.read_text()), **names}))
    return directory


@pytest.mark.parametrize(
    ("architecture", "task"), [row if row in QUICK else pytest.param(*row, marks=pytest.mark.slow) for row in ALL]
)
async def test_equals_transformers(serve: Serve, tmp_path: Path, architecture: str, task: str) -> None:
    path = made(tmp_path / "model", architecture, task)
    parameter = None if task == "text_embedding" else "return_raw_logits"
    given = {parameter: True} if parameter else {}
    expected = [prediction(path, task, text, parameter) for text in TEXTS]
    served = await serve(path, task=task, threads=2)
    together, each = (
        ask(served, "grpc-raw", TEXTS * 2, **given),
        [ask(served, "v1", [text], **given) for text in TEXTS * 4],
    )
    answers = await asyncio.gather(together, *each)
    assert_same(answers[0].predictions, expected * 2)
    assert_same([answer.predictions[0] for answer in answers[1:]], expected * 4)


async def test_a_network_that_keeps_notes_in_its_modules_runs_one_pass_at_a_time(tmp_path: Path) -> None:
    """Funnel writes the length of its pass where a second thread would read it."""
    for architecture, streams in (("funnel", 1), ("ernie", 2), ("gpt2", 2)):
        path = made(tmp_path / architecture, architecture, "text_embedding")
        backend = HuggingFaceBackend(path, auto_class="AutoModel", head="none", max_length=128, threads=2)
        assert backend.limits.streams == streams
