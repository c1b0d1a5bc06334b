"""Tiny random causal models, made in the process: their weights are large enough that texts do not repeat one token."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import torch
import transformers

VOCABULARY = 128
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "max_position_embeddings": 512,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_GQA = {**_COMMON, "num_key_value_heads": 2}
_GPT = {"vocab_size": VOCABULARY, "n_embd": 64, "n_layer": 3, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}
_OWN = {"vocab_size": VOCABULARY, "hidden_size": 64, "num_hidden_layers": 3, "bos_token_id": 1, "eos_token_id": 2}
_WINDOW = {**_GQA, "head_dim": 16, "sliding_window": 8}
CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", _GQA),
    "llama-tied": ("LlamaConfig", {**_GQA, "tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "qwen2": ("Qwen2Config", _GQA),
    "qwen3": ("Qwen3Config", {**_GQA, "head_dim": 16}),
    "mistral": ("MistralConfig", {**_GQA, "sliding_window": 8}),
    "gpt2": ("GPT2Config", {**_GPT, "n_positions": 512}),
    "phi": ("PhiConfig", _COMMON),
    "phi3": ("Phi3Config", _GQA),
    "gemma": ("GemmaConfig", {**_GQA, "head_dim": 16}),
    "gemma2": ("Gemma2Config", {**_WINDOW, "query_pre_attn_scalar": 16, "attn_logit_softcapping": 5.0}),
    "gemma3": ("Gemma3TextConfig", {**_WINDOW, "query_pre_attn_scalar": 16}),
    "gpt_oss": (
        "GptOssConfig",
        {
            **_WINDOW,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e4},
        },
    ),
    "gpt_neox": ("GPTNeoXConfig", _COMMON),
    "stablelm": ("StableLmConfig", _GQA),
    "longrope": (
        "Phi3Config",
        {
            **_GQA,
            "original_max_position_embeddings": 256,
            "rope_parameters": {
                "rope_type": "longrope",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 256,
                "short_factor": [1.0] * 8,
                "long_factor": [2.0] * 8,
            },
        },
    ),
    "llama4": ("Llama4TextConfig", {**_GQA, "head_dim": 16, "num_local_experts": 2, "attention_chunk_size": 8}),
    "falcon": ("FalconConfig", {**_OWN, "num_attention_heads": 4}),
    "bloom": ("BloomConfig", {**_OWN, "n_head": 4}),
    "mamba": ("MambaConfig", _OWN),
    "mixtral": ("MixtralConfig", {**_GQA, "num_local_experts": 4, "num_experts_per_tok": 2}),
    "granite": ("GraniteConfig", {**_GQA, "residual_multiplier": 0.5}),
    "cohere": ("CohereConfig", _GQA),
    "olmo2": ("Olmo2Config", _GQA),
    "smollm3": ("SmolLM3Config", {**_GQA, "no_rope_layers": [1, 0, 1]}),
    "ministral3": (
        "Ministral3Config",
        {
            **_GQA,
            "head_dim": 16,
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 2.0,
                "original_max_position_embeddings": 32,
                "llama_4_scaling_beta": 1.0,
            },
        },
    ),
    "lfm2": ("Lfm2Config", {**_GQA, "full_attn_idxs": [1]}),
}


def causal(name: str, dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    """A model of its own for each caller: the engine changes how a model attends."""
    return copy.deepcopy(_made(name, tuple(config.items()))).to(dtype)


@cache
def _made(name: str, config: tuple[tuple[str, Any], ...]) -> Any:
    kind, values = CONFIGS[name]
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**{**values, **dict(config)}))
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def greedy(model: Any, prompt: list[int], tokens: int) -> list[int]:
    """What `generate` writes."""
    ids = torch.tensor([prompt])
    with torch.inference_mode():
        out = model.generate(
            ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=tokens, pad_token_id=0
        )
    return [int(token) for token in out[0, len(prompt) :]]
