"""Rows of several requests through one model of features: who shares a call, joined, asked, answered apart again.

Knows no library of models: sklearn.py and mlflow.py say how theirs is asked. `forward` runs in the one stream thread: a
call is Python around short kernels, and a second thread beside it would wait for the interpreter (docs/predictive.md
has the figures); kernels that use several cores do so by themselves.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import numpy as np

from modelserve.backends.base import Limits, OutOfMemory
from modelserve.backends.cores import cores
from modelserve.tasks.base import Answer, Estimate
from modelserve.types import Array, Output, Rows, Signature

log = logging.getLogger(__name__)

Values = Array | dict[str, Array]

ROWS = 8192
"""Most rows of one call: what a call costs besides its rows is nothing beside these, and who comes next waits less."""

Reduce = Callable[[Estimate, Sequence[Rows]], list[Output]]


class RowsBackend(ABC):
    """A model of features, ready to be asked. `signature`: what it takes and gives."""

    signature: Signature

    def __init__(self, objection: str | None, threads: int | None, max_rows: int | None) -> None:
        """objection: why rows of several requests must not share a call, None when they may."""
        self._reason = objection or "every step answers each row by itself"
        self.limits = Limits("single" if objection else "packed", max_batch_tokens=max_rows or ROWS, streams=1)
        self._threads = threads or cores()
        # BLAS and OpenMP take the machine's cores and not the container's, and are loaded by now.
        import threadpoolctl

        threadpoolctl.threadpool_limits(limits=self._threads)
        log.info("layout %s: %s", self.limits.layout, self._reason)

    @abstractmethod
    def prepare(self, values: Values) -> Any:
        """The rows as the model takes them: a DataFrame, say."""

    @abstractmethod
    def ask(self, prepared: Any, method: str, options: Mapping[str, Any]) -> Answer:
        """What a method answers. Raises InvalidRequest for input that the model refuses."""

    def forward(self, work: Sequence[Rows], reduce: Reduce, *, alone: bool = True) -> list[Output]:
        try:
            return _run(self, work, reduce)
        except _Uneven:
            self._reason = "it does not answer each row by itself"
            self.limits = replace(self.limits, layout="single")
            log.warning("layout single: %s", self._reason)
            return [_run(self, [one], reduce)[0] for one in work]
        except MemoryError as error:
            raise OutOfMemory("the host has no memory left") from error

    @abstractmethod
    def close(self) -> None:
        """Free the model."""

    def describe(self) -> dict[str, Any]:
        return {
            "device": "cpu",
            "layout": self.limits.layout,
            "layout_reason": self._reason,
            "threads": self._threads,
        }


class _Uneven(Exception):
    """The model did not answer each row of several requests: whose answer is whose, nobody knows."""


class _Call:
    """An Estimate: one model, some rows, prepared once whatever is asked of them."""

    def __init__(self, model: RowsBackend, rows: Sequence[Rows]) -> None:
        self._model = model
        self._options = rows[0].options
        self._rows = sum(map(len, rows)) if len(rows) > 1 else None
        self._prepared = model.prepare(_joined([one.values for one in rows]))

    def __call__(self, method: str) -> Answer:
        answer = self._model.ask(self._prepared, method, self._options)
        if self._rows is not None and answer.rows != self._rows:
            raise _Uneven
        return answer


def _run(model: RowsBackend, rows: Sequence[Rows], reduce: Reduce) -> list[Output]:
    """The outputs in order: one call for all that are alike. Raises _Uneven, and what the model raises."""
    outputs: list[Output] = [None] * len(rows)
    for indices in _alike(rows):
        part = [rows[i] for i in indices]
        for i, output in zip(indices, reduce(_Call(model, part), part), strict=True):
            outputs[i] = output
    return outputs


def _alike(rows: Sequence[Rows]) -> list[list[int]]:
    """Indices of rows that can be joined without a change to any: same columns, datatypes, questions and options."""
    groups: dict[Any, list[int]] = {}
    for index, one in enumerate(rows):
        groups.setdefault((_kind(one.values), one.want, repr(one.options)), []).append(index)
    return list(groups.values())


def _kind(values: Values) -> Any:
    if isinstance(values, dict):
        return tuple((name, column.dtype.str, column.shape[1:]) for name, column in values.items())
    return values.dtype.str, values.shape[1:]


def _joined(values: Sequence[Values]) -> Values:
    if len(values) == 1:
        return values[0]
    if isinstance(values[0], dict):  # and so are the others, which are alike
        columns = cast("Sequence[dict[str, Array]]", values)
        return {name: np.concatenate([one[name] for one in columns]) for name in columns[0]}
    return np.concatenate(cast("Sequence[Array]", values))
