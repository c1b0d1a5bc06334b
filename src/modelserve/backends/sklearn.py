"""An estimator of scikit-learn's kind: reads its file, finds out what it takes and gives, and asks it.

Knows no queue, no protocol and no task. Loaded in the load thread, asked in the stream thread.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from modelserve.backends import answers, estimator_file, rowwise
from modelserve.backends.estimator_file import first_line
from modelserve.backends.rows import RowsBackend, Values
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.base import Answer
from modelserve.types import Array, Rows, Signature, TensorSpec, datatype

METHODS = ("predict", "predict_proba", "transform")
"""What MLServer knows of an estimator, and so the names of its outputs. The first that it has is the default."""


class SklearnBackend(RowsBackend):
    """A fitted estimator."""

    def __init__(
        self,
        file: Path,
        *,
        allow_pickle: bool = False,
        threads: int | None = None,
        max_rows: int | None = None,
    ) -> None:
        """Raises LoadError when the file is not trusted or cannot be read, or the model has nothing to ask."""
        self._estimator = estimator_file.read(file, allow_pickle=allow_pickle)
        self._names = tuple(map(str, getattr(self._estimator, "feature_names_in_", ())))
        if self._names:
            _need_pandas(file)
        self.signature = self._signature()
        set_jobs(self._estimator, threads)
        objection = rowwise.objection(self._estimator)
        # scikit-learn's checks of its input raise these two; of anybody else's code a TypeError is a fault.
        self._refusals = (ValueError,) if objection else (ValueError, TypeError)
        super().__init__(objection, threads, max_rows)

    def prepare(self, values: Values) -> Any:
        if isinstance(values, np.ndarray) and not self._names:
            # A list of texts is what a vectorizer was fitted on.
            return values.tolist() if values.ndim == 1 and values.dtype.kind == "O" else values
        import pandas

        return pandas.DataFrame(values, columns=list(self._names) or None)

    def ask(self, prepared: Any, method: str, options: Mapping[str, Any]) -> Answer:
        try:
            result = getattr(self._estimator, method)(prepared)
        except self._refusals as error:
            raise InvalidRequest(f"the model refuses this input: {first_line(error)}") from error
        return answers.of(result)

    def close(self) -> None:
        del self._estimator

    def describe(self) -> dict[str, Any]:
        import sklearn

        return super().describe() | {
            "estimator": type(self._estimator).__name__,
            "versions": {"scikit-learn": sklearn.__version__},
        }

    def _signature(self) -> Signature:
        """What the fitted attributes say."""
        methods = tuple(method for method in METHODS if hasattr(self._estimator, method))
        width = getattr(self._estimator, "n_features_in_", None)
        if self._names:
            texts = text_columns(self._estimator)
            row: dict[str, Array] = {
                name: np.array([texts[name]], dtype=object) if name in texts else np.zeros(1) for name in self._names
            }
            inputs = tuple(TensorSpec(name, datatype(row[name].dtype), (-1, 1)) for name in self._names)
            return Signature("table", inputs, methods, sample=Rows(row))
        if width is not None:
            inputs = (TensorSpec("input-0", "FP64", (-1, width)),)
            return Signature("array", inputs, methods, sample=Rows(np.zeros((1, width))))
        if any(type(step).__module__ == "sklearn.feature_extraction.text" for step in rowwise.steps(self._estimator)):
            inputs = (TensorSpec("input-0", "BYTES", (-1,)),)
            return Signature("texts", inputs, methods, sample=Rows(np.array(["a"], dtype=object)))
        return Signature("any", (), methods)


def set_jobs(estimator: Any, threads: int | None) -> None:
    """Steps that were fitted with several jobs get --threads of them, or one.

    They were meant for the fit. A forest of 100 trees with n_jobs=-1 takes 22 ms for a row on two cores, 5 ms with one
    job; for 20,000 rows one job takes no longer either.
    """
    for step in rowwise.steps(estimator):
        if getattr(step, "n_jobs", None) not in (None, 1):
            step.n_jobs = threads or 1


def text_columns(estimator: Any) -> dict[str, str]:
    """The columns that hold texts, and a text that each has seen: where an encoder or a vectorizer reads them."""
    found: dict[str, str] = {}
    for step in rowwise.steps(estimator):
        for _, group, columns in getattr(step, "transformers_", ()):
            if isinstance(columns, str):  # how a vectorizer, which takes no table, is given its column
                found[columns] = "a"
                continue
            for encoder in rowwise.steps(group):
                categories = getattr(encoder, "categories_", None)
                if categories is None or isinstance(columns, slice) or len(categories) != len(columns):
                    continue
                for name, seen in zip(columns, categories, strict=True):
                    if isinstance(name, str) and len(seen) and isinstance(seen[0], str):
                        found[name] = str(seen[0])
    return found


def _need_pandas(file: Path) -> None:
    try:
        import pandas  # noqa: F401
    except ImportError as error:
        raise LoadError(
            f"{file.name} was fitted on a table with named columns, which takes pandas: {estimator_file.INSTALL}"
        ) from error
