"""Small tokenizers of every kind that generative models have, trained on a text with emoji, CJK and accents."""

from __future__ import annotations

import json
import string
from functools import cache
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "The quick brown fox jumps over the lazy dog, doesn't it? I'm sure they've seen it: we're here.",
    "Grüße aus Köln! Où est le café? El niño mañana. Ångström, naïve, façade.",
    "日本語のテキストと中文字符，以及 한국어 문장도 있습니다。",
    "Emoji: 😀😃 👨‍👩‍👧‍👦 🇩🇪 ❤️ and € signs … “quotes” — dashes",
    '{"name": "get_weather", "arguments": {"city": "Paris", "days": [1, 2, 3], "ok": true, "none": null}}',
    "def f(a=1, b='x'):\n\treturn [a, b]\n\n\n<tool_call>\n</tool_call>",
]
SPECIAL = ["<s>", "</s>", "<pad>", "<unk>"]


@cache
def byte_level() -> Any:
    """As of gpt2, llama 3 and qwen: BPE over bytes."""
    rust = tokenizers.Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    rust.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False),
    )
    return _loaded(rust, ["<|im_end|>"], ["<tool_call>", "über uns"])


@cache
def byte_fallback() -> Any:
    """As of llama 2 and mistral: BPE over characters with a mark for spaces, and bytes for characters not seen."""
    rust = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    rust.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    rust.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    # Only Latin text is trained on, the rest falls back to bytes.
    rust.train_from_iterator(
        TEXT[:2], trainers.BpeTrainer(vocab_size=450, special_tokens=[*SPECIAL, *bytes_], show_progress=False)
    )
    data = json.loads(rust.to_str())
    # Bytes are ordinary tokens in such a file, not special ones.
    data["added_tokens"] = [token for token in data["added_tokens"] if token["content"] in SPECIAL]
    rust = tokenizers.Tokenizer.from_str(json.dumps(data))
    return _loaded(rust, ["<|im_end|>"], ["<tool_call>"])


@cache
def unigram() -> Any:
    """As of t5: sentencepiece's Unigram with a mark for spaces."""
    rust = tokenizers.Tokenizer(models.Unigram())
    rust.pre_tokenizer = pre_tokenizers.Metaspace()
    rust.decoder = decoders.Metaspace()
    rust.train_from_iterator(
        TEXT,
        trainers.UnigramTrainer(
            vocab_size=300,
            special_tokens=SPECIAL,
            unk_token="<unk>",
            initial_alphabet=list(string.printable),
            show_progress=False,
        ),
    )
    return _loaded(rust, ["<extra_id_0>"], [])


@cache
def unigram_that_cleans() -> Any:
    """As saved by transformers 4: clean_up_tokenization_spaces is on."""
    rust = tokenizers.Tokenizer.from_str(unigram().backend_tokenizer.to_str())
    return PreTrainedTokenizerFast(
        tokenizer_object=rust, eos_token="</s>", pad_token="<pad>", clean_up_tokenization_spaces=True
    )


@cache
def word_piece() -> Any:
    """As of bert."""
    rust = tokenizers.Tokenizer(models.WordPiece(unk_token="<unk>"))
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece()
    rust.train_from_iterator(
        TEXT, trainers.WordPieceTrainer(vocab_size=400, special_tokens=SPECIAL, show_progress=False)
    )
    return _loaded(rust, [], [])


@cache
def suffixed() -> Any:
    """As of gpt-1: a mark at the end of words, so that a token's text depends on the next one."""
    rust = tokenizers.Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    rust.decoder = decoders.BPEDecoder(suffix="</w>")
    rust.train_from_iterator(
        TEXT,
        trainers.BpeTrainer(vocab_size=400, special_tokens=SPECIAL, end_of_word_suffix="</w>", show_progress=False),
    )
    return _loaded(rust, [], [])


KINDS = {
    "byte_level": byte_level,
    "byte_fallback": byte_fallback,
    "unigram": unigram,
    "unigram_that_cleans": unigram_that_cleans,
    "word_piece": word_piece,
    "suffixed": suffixed,
}


def _loaded(rust: tokenizers.Tokenizer, special: list[str], added: list[str]) -> Any:
    loaded = PreTrainedTokenizerFast(
        tokenizer_object=rust, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    if special:
        loaded.add_special_tokens({"additional_special_tokens": special})
    if added:
        loaded.add_tokens(added)
    return loaded
