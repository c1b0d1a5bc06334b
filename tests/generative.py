"""Tiny random generative models, decoder-only and encoder-decoder, with a byte-level BPE tokenizer trained here.

`tiny_generative("llama")` is a directory as `save_pretrained` writes it, made once per machine, the same on every
machine of one version of the libraries: AutoTokenizer and AutoModelFor… load it and are the reference. The weights are
lively: greedy texts wander through the vocabulary, and end at some time. Knows nothing of modelserve. Safe when
several processes ask for the same model at once.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from tests.models import CACHE, _byte_level_bpe, _versions

DECODERS = ("llama", "qwen2", "qwen3", "mistral", "phi", "gpt2", "gemma2", "bloom", "falcon", "mamba")
ENCODER_DECODERS = ("t5", "bart", "marian")
POSITIONS = 256
"""Most tokens of prompt and answer together; for an encoder-decoder, of either."""
WINDOW = 16
"""Of the architectures with a sliding window: mistral in every layer, gemma2 in every second."""

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)

_PAD, _BOS, _EOS, _UNK = "<pad>", "<s>", "</s>", "<unk>"


@cache
def tiny_generative(architecture: str, *, seed: int = 0, **config: Any) -> Path:
    """Directory of a tiny random model; config: further values of config.json, such as `num_key_value_heads=4`."""
    if architecture not in DECODERS + ENCODER_DECODERS:
        raise ValueError(f"no tiny generative model {architecture!r}")
    own = Path(__file__).read_text(encoding="utf-8")
    wanted = repr((architecture, seed, sorted(config.items()), _versions(), own))
    directory = CACHE / f"{architecture}-generation-{sha256(wanted.encode()).hexdigest()[:16]}"
    if directory.is_dir():
        return directory
    CACHE.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=".building-", dir=CACHE))
    try:
        tokenizer = _tokenizer(architecture)
        tokenizer.save_pretrained(building)
        _model(architecture, tokenizer, seed, config).save_pretrained(building)
        try:
            os.replace(building, directory)
        except OSError:
            if not directory.is_dir():  # another process was faster: its model is the same one
                raise
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return directory


def _tokenizer(architecture: str) -> Any:
    """Encoder-decoders end every text with the end token, bart begins it with <s> too; llama and its kin only begin."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocab, merges = _byte_level_bpe([_PAD, _BOS, _EOS, _UNK])
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    around = {"t5": f"$A {_EOS}", "marian": f"$A {_EOS}", "bart": f"{_BOS} $A {_EOS}"}
    around |= dict.fromkeys(("llama", "mistral", "gemma2"), f"{_BOS} $A")
    if architecture in around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=around[architecture], special_tokens=[(token, vocab[token]) for token in (_BOS, _EOS)]
        )
    made = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=_PAD,
        bos_token=_BOS,
        eos_token=_EOS,
        unk_token=_UNK,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=POSITIONS,
    )
    if architecture in DECODERS:
        made.chat_template = CHAT_TEMPLATE
    return made


def _config(architecture: str, tokenizer: Any) -> dict[str, Any]:
    special = {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    shape: dict[str, Any] = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = shape | {"num_key_value_heads": 2, "intermediate_size": 96, "max_position_embeddings": POSITIONS}
    sides = {f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in _SIDE.items()}
    bart = sides | {"d_model": 64, "max_position_embeddings": POSITIONS}
    match architecture:
        case "qwen3":
            values = llama | {"head_dim": 16}
        case "mistral":
            values = llama | {"sliding_window": WINDOW, "head_dim": 16}
        case "gemma2":
            values = llama | {"sliding_window": WINDOW, "head_dim": 16, "query_pre_attn_scalar": 16}
            values |= {"tie_word_embeddings": False}
        case "phi":
            values = llama | {"num_key_value_heads": 4}
        case "gpt2":
            values = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": POSITIONS}
        case "bloom":
            values = {"hidden_size": 64, "n_layer": 2, "n_head": 4}
        case "falcon":
            values = shape | {"max_position_embeddings": POSITIONS}
        case "mamba":
            values = {"hidden_size": 64, "num_hidden_layers": 2, "state_size": 8}
        case "t5":
            values = {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4}
            values |= {"decoder_start_token_id": tokenizer.pad_token_id, "n_positions": POSITIONS}
        case "bart":
            values = bart | {"decoder_start_token_id": tokenizer.eos_token_id, "forced_bos_token_id": None}
            values |= {"forced_eos_token_id": tokenizer.eos_token_id}
        case "marian":
            values = bart | {"decoder_vocab_size": len(tokenizer), "decoder_start_token_id": tokenizer.pad_token_id}
            values |= {"forced_eos_token_id": tokenizer.eos_token_id, "scale_embedding": True}
            values |= {"bad_words_ids": [[tokenizer.pad_token_id]]}  # as every published one; in generation_config.json
        case _:
            values = llama
    return special | values


_SIDE = {"layers": 2, "attention_heads": 4, "ffn_dim": 96}


def _model(architecture: str, tokenizer: Any, seed: int, overrides: dict[str, Any]) -> Any:
    import torch
    import transformers

    values = _config(architecture, tokenizer) | overrides
    auto = transformers.AutoModelForSeq2SeqLM if architecture in ENCODER_DECODERS else transformers.AutoModelForCausalLM
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        bad_words = values.pop("bad_words_ids", None)
        model = auto.from_config(transformers.AutoConfig.for_model(architecture, **values)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                _enliven(name, parameter, _FACTORS.get(architecture, {}))
    model.generation_config.bad_words_ids = bad_words
    return model


def _enliven(name: str, parameter: Any, factors: dict[str, float]) -> None:
    """Layers as loud as what passes them by, so that the next token hangs on the whole text and not on the last token
    alone, and no bias or norm is what a server that forgot it would use."""
    import torch

    if not parameter.requires_grad or name.endswith(
        "A_log"
    ):  # marian's positions are sines; mamba's decays are its own
        return
    if parameter.ndim == 1:
        parameter.add_(torch.randn(parameter.shape) * 0.1)
        return
    if any(part in name for part in ("embed", "wte", "wpe", "shared")):
        loud = 0.3
    else:
        loud = 2.0 * parameter[0].numel() ** -0.5
    for part, factor in factors.items():
        if part in name:
            loud *= factor
    parameter.copy_(torch.randn(parameter.shape) * loud)


_HALF = {".fc": 0.5, "v_proj": 0.5, "out_proj": 0.5}
_FACTORS: dict[str, dict[str, float]] = {
    "bloom": {".h.": 2.0},
    "t5": {"SelfAttention.o.": 2.0, "EncDecAttention.o.": 0.25, "relative": 2.0},
    "bart": _HALF | {"embed_positions": 3.0},
    "marian": _HALF | {"q_proj": 4.0, "k_proj": 4.0, "encoder_attn.out_proj": 2.0},
}
"""Part of a weight's name -> how much louder: found by trying. Where the head is the embedding, a text would repeat one
token without it."""
