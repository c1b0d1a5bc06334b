"""A vector for a text, as sentence-transformers makes it of the same directory.

Knows no protocol. `preprocess` runs in a tokenizer thread, `reduce` in the backend thread, the rest on the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from modelserve.config import Config
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.answer import NUMBER_BYTES, Answers, refuse_pairs
from modelserve.tasks.base import States, Tokenize
from modelserve.tasks.pooling import pool
from modelserve.tasks.recipe import read
from modelserve.types import Encoding, Instance, ModelInfo, Output, Params, Tensor, TensorSpec, TokenIds


class _Finish(NamedTuple):
    """The last steps, in order."""

    normalize: bool
    cut: int | None
    normalize_again: bool


class _Want(NamedTuple):
    finish: _Finish
    skip: int
    """Leading tokens that do not count: a prompt's."""


class TextEmbedding:
    """Pooling, Dense and Normalize from the model directory; mean and L2 for a bare encoder."""

    name = "text_embedding"
    head: Literal["none"] = "none"
    auto_class = "AutoModel"

    def __init__(self, config: Config, info: ModelInfo, tokenize: Tokenize) -> None:
        self.width = info.hidden_size
        self._tokenize = tokenize
        self._answers = Answers(self.name, config, {}, also=["prompt_name", "normalize", "dimensions"])
        self._recipe = read(info, pooling=config.pooling, allow_pickle=config.allow_pickle)
        self._normalize = config.normalize
        self._prompt_name = config.prompt_name or self._recipe.default_prompt_name
        if self._prompt_name is not None and self._prompt_name not in self._recipe.prompts:
            raise LoadError(f"the model has no prompt named {self._prompt_name!r}; {self._prompt_names()}")
        self._prompt_tokens: dict[str, int] = {}
        self._usual = self._finish(Params())

    def preprocess(self, instances: Sequence[Instance], params: Params) -> list[Encoding]:
        refuse_pairs(self.name, instances)
        self._answers.kind(params)
        finish = self._finish(params)
        prompt = self._prompt(instances, params)
        if prompt:
            instances = [prompt + one if isinstance(one, str) else one for one in instances]
        encodings = self._tokenize(instances, params)
        skip = self._tokens_of(prompt) if prompt and not self._recipe.include_prompt else 0
        if finish == self._usual and not skip:
            return encodings
        return [
            # At least one token stays, though truncation left nothing but the prompt.
            replace(e, want=_Want(finish, min(skip, len(e) - 1) if isinstance(one, str) else 0))
            for e, one in zip(encodings, instances, strict=True)
        ]

    def _finish(self, params: Params) -> _Finish:
        wanted = self._normalize if params.normalize is None else params.normalize
        normalize = self._recipe.normalize if wanted is None else wanted
        if params.dimensions is None:
            # The directory's truncate_dim cuts after Normalize, and only who asks for unit length gets it again.
            again = wanted is True and self._recipe.truncate_dim is not None
            return _Finish(normalize, self._recipe.truncate_dim, again)
        self._check_dimensions(params.dimensions)
        return _Finish(False, params.dimensions, normalize)

    def _check_dimensions(self, wanted: int) -> None:
        sizes, full = self._recipe.matryoshka, self._recipe.dimensions
        if wanted == full:
            return
        if sizes is None:
            says = f"the model was not trained for shorter vectors (Matryoshka); it gives {full}"
        elif sizes and wanted not in sizes:
            says = f"the model was trained for {', '.join(map(str, sizes))} and gives {full}"
        elif not 1 <= wanted <= full:
            says = f"it must be between 1 and {full}"
        else:
            return
        raise InvalidRequest(f"dimensions is {wanted}; {says}", param="dimensions")

    def _prompt(self, instances: Sequence[Instance], params: Params) -> str:
        name = params.prompt_name
        if name is None:
            return self._recipe.prompts[self._prompt_name] if self._prompt_name else ""
        if name not in self._recipe.prompts:
            raise InvalidRequest(f"the model has no prompt named {name!r}; {self._prompt_names()}", param="prompt_name")
        if any(isinstance(one, TokenIds) for one in instances):
            raise InvalidRequest("a prompt goes before a text; send texts, not token ids", param="prompt_name")
        return self._recipe.prompts[name]

    def _prompt_names(self) -> str:
        return f"it has {', '.join(self._recipe.prompts)}" if self._recipe.prompts else "it has no prompts"

    def _tokens_of(self, prompt: str) -> int:
        """Tokens of the prompt with the special ones before it, as sentence-transformers counts them."""
        if prompt not in self._prompt_tokens:
            encoding = self._tokenize([prompt], Params(), offsets=True)[0]
            last = encoding.special[-1] if encoding.special else 0
            self._prompt_tokens[prompt] = len(encoding) - last
        return self._prompt_tokens[prompt]

    def answer_bytes(self, encodings: Sequence[Encoding], params: Params) -> int:
        return len(encodings) * (params.dimensions or self._recipe.dimensions) * NUMBER_BYTES

    def reduce(self, states: States, encodings: Sequence[Encoding]) -> list[Output]:
        wants: list[_Want] = [encoding.want or _Want(self._usual, 0) for encoding in encodings]
        vectors = pool(states.hidden, states.groups, self._recipe.modes, [want.skip for want in wants])
        if len(self._recipe.layers):
            vectors = self._recipe.layers.to(vectors.device)(vectors)
        rows = {finish: _finished(vectors, finish).cpu().numpy() for finish in {want.finish for want in wants}}
        return [
            None if encoding.raw else rows[want.finish][i]
            for i, (encoding, want) in enumerate(zip(encodings, wants, strict=True))
        ]

    def postprocess(self, output: Output, encoding: Encoding, params: Params) -> Any:
        """float32 [D]."""
        return output

    def predictions(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Any]:
        return values

    def extra_outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        return []

    def outputs(self, values: list[Any], encodings: Sequence[Encoding], params: Params) -> list[Tensor]:
        """FP32 [B, D]."""
        array = np.stack(values)
        return [Tensor("output-0", "FP32", array.shape, array)]

    def output_specs(self) -> list[TensorSpec]:
        return [TensorSpec("output-0", "FP32", (-1, self._usual.cut or self._recipe.dimensions))]


def _finished(vectors: torch.Tensor, finish: _Finish) -> torch.Tensor:
    if finish.normalize:
        vectors = torch.nn.functional.normalize(vectors, dim=-1)
    if finish.cut is not None:
        vectors = vectors[:, : finish.cut]
    return torch.nn.functional.normalize(vectors, dim=-1) if finish.normalize_again else vectors
