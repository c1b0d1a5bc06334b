"""What transformers writes: greedily, one text at a time, with the logits that each token was chosen by.

What a conversion and a served model are compared with. Blocking; knows no engine.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

NEW = 24
"""Tokens that are written behind each prompt."""

TEXTS = (
    "The capital of France is",
    "Once upon a time, in a village between two rivers,",
    "Q: How many legs does a spider have?\nA:",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return",
    "Zoë and René drank café crème in Besançon. ☕",
    "Die Hauptstadt von Österreich ist",
    "東京は日本の首都であり、",
    "1, 1, 2, 3, 5, 8, 13,",
    '{"name": "Ada", "born": 1815, "languages": ["',
    "A server answers many requests at once: it sorts them by length and runs them together, because",
    "She said: “don't go there (it isn't safe)”. He answered",
    "import numpy as np\n\nx = np.arange(12).reshape(3, 4)\nprint(x",
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What transformers wrote."""

    prompt: list[int]
    new: list[int]
    logits: torch.Tensor
    """[tokens of new, vocabulary]: what each was chosen by; minus infinity for one that may never be."""


def answers(
    model: Any, asked: Sequence[list[int]], say: Callable[[str], None], *, new: int = NEW, what: str = "check"
) -> list[Answer]:
    """What `generate` writes greedily behind each prompt, alone, over the end of texts. what: begins what is said."""
    model.generation_config = _greedy(model)
    found = []
    for i, prompt in enumerate(asked):
        say(f"{what}: transformers writes text {i + 1} of {len(asked)}")
        with torch.inference_mode():
            made = model.generate(
                torch.tensor([prompt]),
                attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                max_new_tokens=new,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
        logits = torch.stack([step[0].float() for step in made.scores])
        found.append(Answer(prompt, made.sequences[0, -len(logits) :].tolist(), logits))
    return found


def _greedy(model: Any) -> Any:
    """No end, no penalties: greed alone. What a decoder must begin with, and may never write, an encoder-decoder
    keeps."""
    from transformers import GenerationConfig

    if not model.config.is_encoder_decoder:
        return GenerationConfig()
    kept = copy.deepcopy(model.generation_config)
    kept.eos_token_id = kept.forced_eos_token_id = None
    kept.min_length, kept.min_new_tokens = 0, None
    kept.num_beams, kept.no_repeat_ngram_size, kept.repetition_penalty = 1, 0, 1.0
    return kept
