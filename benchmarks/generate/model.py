"""The model that generation is measured with: SmolLM-135M's shape, random weights, a tokenizer of tokens with text.

Made once, into `.cache/benchmarks`, the same everywhere. Says nothing of quality.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import string
import tempfile
from pathlib import Path

DIRECTORY = Path(__file__).parents[2] / ".cache" / "benchmarks" / "smollm-135m-shape"
VOCABULARY = 49152
CONTEXT = 2048
WEIGHTS = 134_515_008
"""Parameters; the head's are the embedding's."""


def directory() -> Path:
    """Where it is; makes it when it is not there."""
    if not DIRECTORY.is_dir():
        DIRECTORY.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=DIRECTORY.parent))
        try:
            _tokenizer(building)
            _weights(building)
            os.replace(building, DIRECTORY)
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return DIRECTORY


def prompts(count: int, tokens: int, seed: int) -> list[list[int]]:
    """Random ids, without the special tokens."""
    rng = random.Random(seed)
    return [[rng.randrange(3, VOCABULARY) for _ in range(tokens)] for _ in range(count)]


def _tokenizer(to: Path) -> None:
    """Byte-level BPE: every byte, then pairs and triples of letters, each merged of two that come before it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<s>", "</s>"]
    tokens = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    letters = string.ascii_letters
    merges = list(itertools.product(letters, letters))
    tokens += ["".join(pair) for pair in merges]
    triples = (("".join(pair), letter) for pair in itertools.product(letters, letters) for letter in letters)
    for first, second in itertools.islice(triples, VOCABULARY - len(tokens)):
        merges.append((first, second))
        tokens.append(first + second)
    model = models.BPE(vocab={token: id for id, token in enumerate(tokens)}, merges=merges)
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=CONTEXT,
    ).save_pretrained(to)


def _weights(to: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=576,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        intermediate_size=1536,
        tie_word_embeddings=True,
        max_position_embeddings=CONTEXT,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).to(torch.bfloat16).eval()
    assert model.num_parameters() == WEIGHTS, f"{model.num_parameters()} parameters"
    model.save_pretrained(to)
