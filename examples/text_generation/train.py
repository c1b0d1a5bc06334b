"""Trains a small Llama, from nothing, to say dates in words, and saves it as a Hugging Face model directory.

It reads `When is 2026-11-26?` and writes `On the 26th of November 2026.`, byte by byte. One date of ten is held out.
Run `python examples/text_generation/train.py --output DIR`.
"""

from __future__ import annotations

import datetime
import random
import sys
from pathlib import Path

import tokenizers
import torch
import transformers

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from training import SEED, check_held_out, fit, output_directory, pad, save

FIRST, LAST = datetime.date(1900, 1, 1), datetime.date(2099, 12, 31)
EXAMPLES, HELD_OUT = 6000, 300
CHAT = (
    "{% for message in messages %}{{ message.content }}"
    "{{ eos_token if message.role == 'assistant' else '\n' }}{% endfor %}"
)
"""A line for the question, the answer behind it."""


def question(day: datetime.date) -> str:
    return f"When is {day.isoformat()}?\n"


def answer(day: datetime.date) -> str:
    ends = {1: "st", 2: "nd", 3: "rd", 21: "st", 22: "nd", 23: "rd", 31: "st"}
    return f"On the {day.day}{ends.get(day.day, 'th')} of {day.strftime('%B')} {day.year}."


def dates() -> tuple[list[datetime.date], list[datetime.date]]:
    """(training, held out)."""
    choose = random.Random(SEED)
    days = choose.sample(range((LAST - FIRST).days + 1), EXAMPLES + HELD_OUT)
    found = [FIRST + datetime.timedelta(day) for day in days]
    training, held_out = found[:EXAMPLES], found[EXAMPLES:]
    check_held_out(map(question, held_out), map(question, training))
    return training, held_out


def bytes_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A token for each byte, and one for the end."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    rust = tokenizers.Tokenizer(tokenizers.models.BPE({byte: id for id, byte in enumerate(alphabet)}, []))
    rust.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = tokenizers.decoders.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=rust, eos_token="<end>", pad_token="<pad>", model_max_length=128
    )
    tokenizer.chat_template = CHAT
    return tokenizer


def main() -> None:
    output = output_directory(__doc__, "build/examples/text_generation")
    training, held_out = dates()
    torch.manual_seed(SEED)
    torch.set_num_threads(1)
    tokenizer = bytes_tokenizer()
    model = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=96,
            intermediate_size=256,
            num_hidden_layers=3,
            num_attention_heads=6,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )

    def loss(batch: list[datetime.date]) -> torch.Tensor:
        asked = [tokenizer(question(day))["input_ids"] for day in batch]
        told = [[*tokenizer(answer(day))["input_ids"], tokenizer.eos_token_id] for day in batch]
        ids = pad([a + t for a, t in zip(asked, told, strict=True)], tokenizer.pad_token_id)
        labels = pad([[-100] * len(a) + t for a, t in zip(asked, told, strict=True)], -100)
        return model(ids, ids != tokenizer.pad_token_id, labels=labels).loss

    fit(model, loss, training, epochs=3, learning_rate=3e-3)
    asked = torch.tensor([tokenizer(question(day))["input_ids"] for day in held_out])
    with torch.inference_mode():
        # Every question has the same length, so nothing is padded.
        written = model.generate(asked, max_new_tokens=48, do_sample=False)[:, asked.shape[1] :]
    texts = tokenizer.batch_decode(written, skip_special_tokens=True)
    right = 0
    for day, text in zip(held_out, texts, strict=True):
        right += text == answer(day)
        if text != answer(day):
            print(f"  wrong: {day} -> {text}")
    print(f"{len(held_out)} held-out dates, {right} said rightly")
    save(model, tokenizer, output, right / len(held_out))


if __name__ == "__main__":
    main()
