"""Whether an estimator answers each row by itself, so that rows of several requests may share a call.

Judged by the classes of its steps. Imports no library of models; runs in the load thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

_LIBRARIES = ("sklearn", "xgboost", "lightgbm", "catboost")
"""Their estimators look at one row at a time, but for those below (tests/backends/test_rowwise.py asks all of
scikit-learn's)."""
_WHOLE_TABLE = {
    "NMF": "starts from the mean of all rows",
    "MiniBatchNMF": "starts from the mean of all rows",
    "SparsePCA": "answers a single row in another shape",
    "MiniBatchSparsePCA": "answers a single row in another shape",
}
_FUNCTIONS = ("func", "inverse_func")


def objection(estimator: Any) -> str | None:
    """Why rows of several requests must not be in one call; None when they may."""
    for step in steps(estimator):
        name = type(step).__name__
        if type(step).__module__.partition(".")[0] not in _LIBRARIES:
            return f"{name} is no estimator of {', '.join(_LIBRARIES)}, and may look at all rows"
        if name in _WHOLE_TABLE:
            return f"{name} {_WHOLE_TABLE[name]}"
        for parameter in _FUNCTIONS:
            function = getattr(step, parameter, None)
            if function is not None and not isinstance(function, np.ufunc):
                return f"the {parameter} of {name} may look at all rows"
    return None


def steps(estimator: Any) -> Iterator[Any]:
    """It and all estimators in it."""
    yield estimator
    parameters = estimator.get_params(deep=True) if hasattr(estimator, "get_params") else {}
    yield from (value for value in parameters.values() if hasattr(value, "get_params"))
