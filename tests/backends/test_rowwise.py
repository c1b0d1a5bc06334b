"""Which estimators may share a call: every one of scikit-learn's that is said to, does answer each row by itself."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.compose import ColumnTransformer, TransformedTargetRegressor
from sklearn.decomposition import NMF
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.utils import all_estimators

from modelserve.backends.rowwise import objection
from modelserve.backends.sklearn import METHODS
from tests.estimators import IRIS, SPECIES


class Own(TransformerMixin, BaseEstimator):
    """Nobody knows what it does."""

    def fit(self, X: Any, y: Any = None) -> Own:
        return self

    def transform(self, X: Any) -> Any:
        return X - X.mean(axis=0)


def half(values: Any) -> Any:
    return values / 2


@pytest.mark.parametrize(
    ("estimator", "reason"),
    [
        (LogisticRegression(), None),
        (make_pipeline(StandardScaler(), LogisticRegression()), None),
        (FunctionTransformer(), None),
        (FunctionTransformer(np.log1p), None),
        (make_pipeline(Own(), LogisticRegression()), "Own is no estimator of sklearn"),
        (ColumnTransformer([("a", make_pipeline(Own()), [0])]), "Own is no estimator of sklearn"),
        (make_pipeline(FunctionTransformer(half), LinearRegression()), "the func of FunctionTransformer"),
        (TransformedTargetRegressor(func=np.log1p, inverse_func=half), "the inverse_func of TransformedTarget"),
        (make_pipeline(NMF(), LinearRegression()), "NMF starts from the mean"),
        (object(), "object is no estimator"),
    ],
    ids=lambda value: re.sub(r" at 0x[0-9a-f]+", "", str(value)),  # an address is another one in each process
)
def test_what_is_judged(estimator: Any, reason: str | None) -> None:
    found = objection(estimator)
    assert found is None if reason is None else found is not None and found.startswith(reason)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [kind for _, kind in all_estimators()], ids=lambda kind: kind.__name__)
def test_scikit_learns_answer_each_row_by_itself(kind: type) -> None:
    """Fitted on iris where that can be; the answer to all rows at once is that to each half, and to each row."""
    try:
        fitted = kind().fit(IRIS, SPECIES)
    except Exception as error:
        pytest.skip(f"not to be fitted like this: {error}")
    methods = [method for method in METHODS if hasattr(fitted, method)]
    if objection(fitted) is not None or not methods:
        pytest.skip("never shares a call")
    rows = IRIS[::7] + 0.01
    for method in methods:
        ask = getattr(fitted, method)
        try:
            together = dense(ask(rows))
        except Exception as error:
            pytest.skip(f"does not answer: {error}")
        parts = np.concatenate([dense(ask(part)) for part in (rows[:9], rows[9:10], rows[10:])])
        if together.dtype.kind in "OUS":
            assert parts.tolist() == together.tolist()
        else:
            np.testing.assert_allclose(parts, together, rtol=1e-5, atol=1e-7)


def dense(answer: Any) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return np.asarray(answer.toarray() if hasattr(answer, "toarray") else answer)
