"""Rows of features in, what the model predicts out: the one task of scikit-learn's and MLflow's models.

The verbs are those of base.py, for `Rows` and an `Estimate`. Knows no library of models; runs where a task's verbs run.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from math import prod
from typing import Any

from modelserve.config import Config
from modelserve.errors import InvalidRequest
from modelserve.tasks import tensors
from modelserve.tasks.answer import NUMBER_BYTES
from modelserve.tasks.base import Answer, Estimate
from modelserve.tasks.columns import arranged
from modelserve.types import Output, Params, Rows, Signature, Tensor, TensorSpec

_PROBABILITIES = "predict_proba"


class Prediction:
    """What a model of features is asked, and how its answers look."""

    name = "prediction"

    def __init__(self, config: Config, signature: Signature) -> None:
        self._signature = signature
        self.by_method = signature.by_method
        """Outputs are called as what was asked; otherwise as the model calls them."""
        self._probabilities = config.return_probabilities and _PROBABILITIES in signature.methods
        self._numbers = dict.fromkeys(signature.methods, 1)
        """Numbers in the answer to a row, as far as `learn` has seen them."""

    def preprocess(self, rows: Rows, params: Params, wanted: Sequence[str]) -> Rows:
        """The rows as the model takes them, and what it is asked. Raises InvalidRequest."""
        known = self._signature.options
        options = {name: value for name, value in rows.options.items() if name in known}
        return Rows(arranged(rows.values, self._signature), self._methods(params, wanted), options)

    def _methods(self, params: Params, wanted: Sequence[str]) -> tuple[str, ...]:
        methods = self._signature.methods
        for name in params.__struct_fields__:
            known = name == "return_probabilities" or name in self._signature.options
            if not known and getattr(params, name) is not None:
                raise InvalidRequest(f"{name} means nothing to the task {self.name}", param=name)
        if wanted and self.by_method:
            for name in wanted:
                if name not in methods:
                    raise InvalidRequest(
                        f"Output {name!r} is none of this model's; it has {', '.join(methods)}.", param="outputs"
                    )
            return tuple(dict.fromkeys(wanted))
        asked = params.return_probabilities
        if asked and _PROBABILITIES not in methods:
            raise InvalidRequest(
                f"the model gives no probabilities; it has {', '.join(methods)}", param="return_probabilities"
            )
        return (_PROBABILITIES,) if (self._probabilities if asked is None else asked) else methods[:1]

    def answer_bytes(self, rows: Rows) -> int:
        """Memory that the answer takes, about; asked before the queue."""
        return len(rows) * NUMBER_BYTES * sum(self._numbers[method] for method in rows.want)

    def reduce(self, estimate: Estimate, rows: Sequence[Rows]) -> list[Output]:
        """The answers to each piece of work by method; all of them want the same methods."""
        answers = {method: estimate(method) for method in rows[0].want}
        if len(rows) == 1:
            return [answers]
        bounds = pairwise(accumulate(map(len, rows), initial=0))
        return [{method: answer.part(*bound) for method, answer in answers.items()} for bound in bounds]

    def predictions(self, output: dict[str, Answer]) -> list[Any]:
        """V1's entries, one per row: a value, a list, or an object of named values."""
        (answer,) = output.values()
        if not isinstance(answer.values, dict):
            return list(answer.values.tolist())
        columns = {name: column.tolist() for name, column in answer.values.items()}
        if answer.rows is None:  # whatever it is, it is no table
            return [columns]
        return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]

    def outputs(self, output: dict[str, Answer]) -> list[Tensor]:
        """V2's output tensors, called and shaped as MLServer does."""
        return [
            tensor
            for method, answer in output.items()
            for tensor in tensors.of(method if self.by_method else tensors.UNNAMED, answer)
        ]

    def content_type(self, output: dict[str, Answer]) -> str:
        """How MLServer's clients read the outputs as a whole, where the model names them."""
        if self.by_method:
            return ""
        return tensors.CONTENT_TYPES[next(iter(output.values())).form]

    def learn(self, method: str, output: dict[str, Answer]) -> list[TensorSpec]:
        """What the model's metadata say of that method, from an answer to a sample."""
        found = self.outputs(output)
        self._numbers[method] = sum(prod(one.shape[1:]) for one in found)
        return [TensorSpec(one.name, one.datatype, (-1, *one.shape[1:])) for one in found]

    def output_specs(self) -> list[TensorSpec]:
        """The outputs of the model's V2 metadata, as its file says them."""
        return list(self._signature.outputs)
