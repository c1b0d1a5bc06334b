"""Small estimators that tests serve: trained on the spot, the same each time. Imports nothing of modelserve and no
pytest, so that MLServer's own environment can make the same files (tests/protocols/record_mlserver.py).
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
import warnings
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
from sklearn.compose import ColumnTransformer
from sklearn.datasets import load_diabetes, load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LinearRegression, LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

IRIS, SPECIES = load_iris(return_X_y=True)
"""150 rows of 4 numbers, and their class 0 to 2."""
SPECIES_NAMES = load_iris().target_names
DIABETES, PROGRESSION = load_diabetes(return_X_y=True)
"""442 rows of 10 numbers, and a number each."""
TEXTS = ["what a film", "i left after an hour", "a great evening", "boring and long", "great film", "what a bore"]


def people() -> pd.DataFrame:
    """A table with columns of three kinds: whole numbers, numbers with gaps, texts."""
    random = np.random.default_rng(7)
    income = random.normal(40_000, 10_000, 200).round(2)
    income[::17] = np.nan
    return pd.DataFrame(
        {
            "age": random.integers(18, 90, 200),
            "income": income,
            "city": random.choice(["Trento", "Rovereto", "Bolzano"], 200),
        }
    )


def buys() -> np.ndarray[Any, Any]:
    """A class for each of `people`."""
    table = people()
    return np.where((table["age"] > 40) & (table["city"] != "Bolzano"), "yes", "no")


def classifier() -> Any:
    return LogisticRegression(max_iter=1000).fit(IRIS, SPECIES)


def named_classifier() -> Any:
    """Its classes are texts."""
    return LogisticRegression(max_iter=1000).fit(IRIS, SPECIES_NAMES[SPECIES])


def regressor() -> Any:
    return LinearRegression().fit(DIABETES, PROGRESSION)


def two_regressors() -> Any:
    """Two numbers for each row."""
    return LinearRegression().fit(DIABETES, np.column_stack([PROGRESSION, PROGRESSION / 2]))


def two_classifiers() -> Any:
    """Two classes for each row, the first of 3, the second of 2."""
    both = np.column_stack([SPECIES, (IRIS[:, 0] > 5.8).astype(int)])
    return RandomForestClassifier(n_estimators=5, random_state=3).fit(IRIS, both)


def scaler() -> Any:
    """Has no predict."""
    return StandardScaler().fit(IRIS)


def frame_scaler() -> Any:
    """Fitted on a table, answers a table."""
    table = people()[["age", "income"]]
    return make_pipeline(SimpleImputer(), StandardScaler()).set_output(transform="pandas").fit(table)


def table_pipeline() -> Any:
    """Reads its columns by name; a text among them."""
    columns = ColumnTransformer(
        [
            ("numbers", make_pipeline(SimpleImputer(), StandardScaler()), ["age", "income"]),
            ("words", OneHotEncoder(), ["city"]),
        ]
    )
    return Pipeline([("columns", columns), ("classes", LogisticRegression())]).fit(people(), buys())


def text_classifier() -> Any:
    """A row is a text."""
    return make_pipeline(TfidfVectorizer(), LogisticRegression()).fit(TEXTS, [1, 0, 1, 0, 1, 0])


SKLEARN: dict[str, Callable[[], Any]] = {
    make.__name__: make
    for make in (
        classifier,
        named_classifier,
        regressor,
        two_regressors,
        two_classifiers,
        scaler,
        frame_scaler,
        table_pipeline,
        text_classifier,
    )
}


def dump(name: str, directory: Path, ending: str = ".joblib") -> Path:
    """An estimator in a file, with the tool that belongs to the ending."""
    file = directory / f"{name}{ending}"
    estimator = SKLEARN[name]()
    if ending == ".skops":
        import skops.io

        skops.io.dump(estimator, file)
    else:
        joblib.dump(estimator, file)
    return file


@cache
def _folder() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="modelserve-estimators-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


@cache
def estimator(name: str, ending: str = ".joblib") -> Path:
    """The file of an estimator, made once for this process."""
    return dump(name, _folder(), ending)


@cache
def mlflow_model(name: str) -> Path:
    """The directory of an MLflow model, made once for this process."""
    return save(name, _folder())


def model(name: str) -> Path:
    """Either, by its name."""
    return mlflow_model(name) if name in MLFLOW else estimator(name)


MLFLOW = ("mlflow_table", "mlflow_array", "mlflow_own", "mlflow_own_frame", "mlflow_tensors", "mlflow_unsigned")


def save(name: str, directory: Path) -> Path:
    """An MLflow model in a directory of that name."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of mlflow's, about requirements that it guesses
        import mlflow
        import mlflow.sklearn
        from mlflow.models import infer_signature
        from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

        path = directory / name
        given: dict[str, Any] = {"path": path, "pip_requirements": []}
        if name == "mlflow_table":
            table, model = people(), table_pipeline()
            signature = infer_signature(table, model.predict(table))
            mlflow.sklearn.save_model(model, signature=signature, serialization_format="cloudpickle", **given)
        elif name == "mlflow_array":
            signature = infer_signature(IRIS, SPECIES)
            mlflow.sklearn.save_model(classifier(), signature=signature, serialization_format="pickle", **given)
        elif name == "mlflow_unsigned":
            mlflow.sklearn.save_model(classifier(), serialization_format="pickle", **given)
        elif name == "mlflow_own":
            params = ParamSchema([ParamSpec("factor", "double", 2.0)])
            inputs = Schema([ColSpec("double", "x"), ColSpec("long", "n")])
            signature = mlflow.models.ModelSignature(inputs, Schema([ColSpec("double")]), params)
            mlflow.pyfunc.save_model(python_model=_own(), signature=signature, **given)
        elif name == "mlflow_own_frame":
            inputs = Schema([ColSpec("double", "x"), ColSpec("string", "word")])
            outputs = Schema([ColSpec("double", "double"), ColSpec("string", "upper")])
            signature = mlflow.models.ModelSignature(inputs, outputs)
            mlflow.pyfunc.save_model(python_model=_own_frame(), signature=signature, **given)
        elif name == "mlflow_tensors":
            float32 = np.dtype("float32")
            inputs = Schema([TensorSpec(float32, (-1, 2), "a"), TensorSpec(float32, (-1, 3), "b")])
            outputs = Schema([TensorSpec(float32, (-1,), "sum"), TensorSpec(float32, (-1, 5), "both")])
            signature = mlflow.models.ModelSignature(inputs, outputs)
            mlflow.pyfunc.save_model(python_model=_own_tensors(), signature=signature, **given)
    return path


def _own() -> Any:
    """A model whose code is in its pickle: takes a parameter, and refuses and fails on wish."""
    import mlflow

    class Own(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            if (model_input["n"] == -1).any():
                raise ValueError("n is -1; it must be 0 or more")
            if (model_input["n"] == -2).any():
                raise RuntimeError("a fault of the model's own")
            return (model_input["x"] * (params or {}).get("factor", 2.0) + model_input["n"]).to_numpy()

    return Own()


def _own_frame() -> Any:
    import mlflow

    class OwnFrame(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
            return pd.DataFrame({"double": model_input["x"] * 2, "upper": model_input["word"].str.upper()})

    return OwnFrame()


def _own_tensors() -> Any:
    import mlflow

    class OwnTensors(mlflow.pyfunc.PythonModel):
        def predict(self, context: Any, model_input: np.ndarray, params: Any = None) -> Any:
            return {"sum": model_input["a"].sum(axis=1), "both": np.hstack([model_input["a"], model_input["b"]])}

    return OwnTensors()
