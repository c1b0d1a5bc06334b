"""The path of a request through a task, without server, queue and backend: what the tests of tasks run.

`Reference` is States as plainly as can be: transformers' own padded forward pass of the whole model, unpadded after.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
import transformers

from modelserve import registry
from modelserve.config import Config
from modelserve.runtime.tokenizer import Tokenizer
from modelserve.tasks.base import Task
from modelserve.types import Encoding, Instance, ModelInfo, Params, Tensor

DEFAULTS = Config()

TEXTS = [
    "The capital of France is Paris.",
    "Anna",
    "John Smith met Zoë in São Paulo, near the old bank; nobody knew why (3.5 % more)!",
    "",
    "I love this film, the actors were wonderful.",
    "Maria Rossi works for HuggingFace in New York City",
    "Paris Paris",
]
"""Lengths differ, two are equal, one is empty; names, punctuation, accents."""


class Reference:
    """States of one padded pass."""

    def __init__(self, model: Any, encodings: Sequence[Encoding]) -> None:
        self.lengths = [len(encoding) for encoding in encodings]
        self.groups = []
        first = 0
        for length, same in groupby(self.lengths):
            count = len(list(same))
            self.groups.append((first, count, length))
            first += count * length
        longest = max(self.lengths)
        ids = torch.full((len(encodings), longest), model.config.pad_token_id)
        mask = torch.zeros_like(ids)
        types = torch.zeros_like(ids)
        for row, encoding in enumerate(encodings):
            ids[row, : len(encoding)] = torch.tensor(encoding.ids)
            mask[row, : len(encoding)] = 1
            if encoding.type_ids is not None:
                types[row, : len(encoding)] = torch.tensor(encoding.type_ids)
        extra = {"token_type_ids": types} if any(e.type_ids is not None for e in encodings) else {}
        self._answer = model(input_ids=ids, attention_mask=mask, **extra)[0]
        self._mask = mask.bool()

    @property
    def hidden(self) -> torch.Tensor:
        return self._answer[self._mask]

    def token_logits(self, rows: torch.Tensor | None = None) -> torch.Tensor:
        logits = self._answer[self._mask]
        return logits if rows is None else logits[rows]

    def sequence_logits(self) -> torch.Tensor:
        return self._answer


@dataclass(frozen=True)
class Answer:
    """A whole request's answer in every form."""

    encodings: list[Encoding]
    predictions: list[Any]
    extra_outputs: list[Tensor]
    outputs: list[Tensor]

    @property
    def tensor(self) -> Tensor:
        """V2's `output-0`."""
        assert self.outputs[0].name == "output-0"
        return self.outputs[0]


@cache
def model(path: Path, auto_class: str) -> Any:
    return getattr(transformers, auto_class).from_pretrained(path).eval()


@cache
def pretrained_tokenizer(path: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(path)


@cache
def tokenizer(path: Path) -> Tokenizer:
    return Tokenizer(path, max_length=128)


def info(path: Path) -> ModelInfo:
    config = transformers.AutoConfig.from_pretrained(path)
    return ModelInfo(
        path=path,
        config=config.to_dict(),
        id2label=dict(config.id2label),
        num_labels=config.num_labels,
        problem_type=config.problem_type,
        hidden_size=config.hidden_size,
        max_length=128,
    )


def build(path: Path, name: str, config: Config = DEFAULTS) -> Task:
    task: Task = registry.load(registry.TASKS[name])(config, info(path), tokenizer(path))
    return task


def ask(
    path: Path,
    task: Task,
    instances: Sequence[Instance],
    params: Params | None = None,
    **given: Any,
) -> Answer:
    """The answer to these instances, all of them in one batch."""
    params = params or Params(**given)
    encodings = task.preprocess(instances, params)
    outputs = reduce(path, task, encodings)
    values = [task.postprocess(o, e, params) for o, e in zip(outputs, encodings, strict=True)]
    return Answer(
        encodings,
        task.predictions(values, encodings, params),
        task.extra_outputs(values, encodings, params),
        task.outputs(values, encodings, params),
    )


def reduce(path: Path, task: Task, encodings: Sequence[Encoding]) -> list[Any]:
    """One batch, sorted by length as backends do, in a backend's inference mode."""
    order = sorted(range(len(encodings)), key=lambda i: len(encodings[i]))
    batch = [encodings[i] for i in order]
    with torch.inference_mode():
        reduced = task.reduce(Reference(model(path, task.auto_class), batch), batch)
    outputs = [None] * len(order)
    for i, output in zip(order, reduced, strict=True):
        outputs[i] = output
    return outputs


def logits(path: Path, auto_class: str, text: str, pair: str | None = None) -> torch.Tensor:
    """transformers' own answer for one text alone, [L, C] or [C]."""
    with torch.inference_mode():
        # Lists, because a single empty text_pair would be taken as none.
        pairs = None if pair is None else [pair]
        encoded = pretrained_tokenizer(path)([text], pairs, truncation=True, return_tensors="pt")
        return model(path, auto_class)(**encoded)[0][0]
