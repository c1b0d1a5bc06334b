"""An MLflow model from its directory: leave, signature, types of columns, its own example; and what it must not do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from modelserve.backends.mlflow import MlflowBackend
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.base import Answer, Estimate
from modelserve.types import Rows
from tests.estimators import IRIS, classifier, mlflow_model, people


def reduce(estimate: Estimate, rows: Sequence[Rows]) -> list[Answer]:
    (_,) = rows
    return [estimate("predict")]


def refused(path: Path, **flags: Any) -> str:
    with pytest.raises(LoadError) as caught:
        MlflowBackend(path, **flags)
    return caught.value.message


def objects(*values: Any) -> np.ndarray:
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def saved(path: Path, function: Any, inputs: Any, **given: Any) -> Path:
    """A model whose predict is a function of the DataFrame."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow
        from mlflow.types import Schema

        class Own(mlflow.pyfunc.PythonModel):
            def predict(self, context: Any, model_input: pd.DataFrame, params: Any = None) -> Any:
                return function(model_input)

        signature = mlflow.models.ModelSignature(Schema(inputs)) if inputs else None
        mlflow.pyfunc.save_model(path, python_model=Own(), signature=signature, pip_requirements=[], **given)
    return path


def test_no_model_is_loaded_without_leave() -> None:
    assert refused(mlflow_model("mlflow_array")) == (
        "mlflow_array is an MLflow model: loading it imports code that it names and unpickles what is in it; give "
        "--allow_pickle if you trust it"
    )


def test_what_cannot_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "model"
    shutil.copytree(mlflow_model("mlflow_array"), path)
    (path / "model.pkl").write_bytes(b"")
    assert refused(path, allow_pickle=True).startswith("model cannot be loaded: ")
    (path / "model.pkl").write_bytes(b"cno_such_package\nForest\n.")
    assert refused(path, allow_pickle=True) == (
        f"model needs the package no_such_package, which is not installed; pip install -r {path}/requirements.txt"
    )
    (path / "MLmodel").write_text("flavors: {sklearn: {}}")
    assert refused(path, allow_pickle=True).startswith("model cannot be loaded: ")
    (path / "MLmodel").write_text("]")
    assert refused(path, allow_pickle=True).startswith("model cannot be loaded: ")


def test_what_the_signature_says() -> None:
    table = MlflowBackend(mlflow_model("mlflow_table"), allow_pickle=True)
    assert (table.signature.form, table.signature.methods, table.signature.typed) == ("table", ("predict",), True)
    assert [(one.name, one.datatype, one.shape) for one in table.signature.inputs] == [
        ("age", "INT64", (-1, 1)),
        ("income", "FP64", (-1, 1)),
        ("city", "BYTES", (-1, 1)),
    ]
    assert [(one.name, one.datatype, one.shape) for one in table.signature.outputs] == [("output-1", "BYTES", (-1, 1))]
    assert table.limits.layout == "packed"
    assert table.describe()["flavors"] == ["python_function", "sklearn"]
    own = MlflowBackend(mlflow_model("mlflow_own"), allow_pickle=True)
    assert own.limits.layout == "single"
    assert own.describe()["layout_reason"].startswith("Own is no estimator of ")
    assert own.signature.options == {"factor"}
    tensors = MlflowBackend(mlflow_model("mlflow_tensors"), allow_pickle=True)
    assert tensors.signature.form == "tensors"
    assert MlflowBackend(mlflow_model("mlflow_unsigned"), allow_pickle=True).signature.form == "any"


def test_a_signature_that_fixes_the_rows(tmp_path: Path) -> None:
    from mlflow.types import TensorSpec

    path = saved(tmp_path / "model", len, [TensorSpec(np.dtype("float64"), (2, 3), "a")])
    backend = MlflowBackend(path, allow_pickle=True)
    assert (backend.limits.layout, backend.describe()["layout_reason"]) == (
        "single",
        "its signature says how many rows there are",
    )


def kinds(table: pd.DataFrame) -> list[str]:
    return [f"{name} {type(table[name].iloc[0]).__name__}" for name in table]


def test_columns_that_are_no_numbers(tmp_path: Path) -> None:
    from mlflow.types import ColSpec
    from mlflow.types.schema import Array, DataType

    inputs = [
        ColSpec("datetime", "when"),
        ColSpec("binary", "raw"),
        ColSpec(Array(DataType.long), "list"),
        ColSpec("boolean", "flag"),
        ColSpec("float", "small"),
        ColSpec("integer", "count"),
    ]
    backend = MlflowBackend(saved(tmp_path / "model", kinds, inputs), allow_pickle=True)
    values = {
        "when": objects("2026-01-02T03:04:05"),
        "raw": objects("aGk="),
        "list": objects("[1, 2]"),
        "flag": np.array([True]),
        "small": np.array([1.5], dtype=np.float32),
        "count": np.array([3], dtype=np.int32),
    }
    (answer,) = backend.forward([Rows(values, ("predict",))], reduce)
    assert answer.values.tolist() == [
        "when Timestamp",
        "raw bytes",
        "list list",
        "flag bool",
        "small float32",
        "count int32",
    ]
    for name, text in (("when", "yesterday"), ("list", "[1,")):
        with pytest.raises(InvalidRequest, match=f"column {name} has an element that is no"):
            backend.forward([Rows(values | {name: objects(text)}, ("predict",))], reduce)


def test_the_reason_of_a_refusal_does_not_repeat_the_input() -> None:
    backend = MlflowBackend(mlflow_model("mlflow_own"), allow_pickle=True)
    with pytest.raises(InvalidRequest) as caught:
        backend.forward([Rows({"x": np.array([1.5]), "n": objects("secret")}, ("predict",))], reduce)
    assert caught.value.message.startswith("the model refuses this input: Incompatible input types for column n")
    assert "secret" not in caught.value.message


@pytest.mark.slow
def test_its_own_example_is_the_sample(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        example = people().dropna().head(2)
        mlflow.sklearn.save_model(
            classifier(), tmp_path / "array", input_example=IRIS[:2], serialization_format="pickle"
        )
    saved(tmp_path / "table", kinds, None, input_example=example)
    array = MlflowBackend(tmp_path / "array", allow_pickle=True).signature.sample
    assert array is not None
    np.testing.assert_array_equal(array.values, IRIS[:2])
    table = MlflowBackend(tmp_path / "table", allow_pickle=True).signature.sample
    assert table is not None
    assert isinstance(table.values, dict)
    assert table.values["city"].tolist() == example["city"].tolist()


QUIET = """
import sys
from pathlib import Path
import numpy as np
from modelserve.backends.mlflow import MlflowBackend
from modelserve.types import Rows
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo"):
        raise SystemExit(f"the network was asked: {arguments}")
sys.addaudithook(refuse)
backend = MlflowBackend(Path(sys.argv[1]), allow_pickle=True)
(answer,) = backend.forward([Rows(np.array([[5.1, 3.5, 1.4, 0.2]]), ("predict",))], lambda ask, rows: [ask("predict")])
assert answer.values.tolist() == [0]
assert "torch" not in sys.modules
"""


@pytest.mark.slow
@pytest.mark.parametrize("form", ["pickle", "skops"])
def test_it_asks_nobody_leaves_nothing_and_imports_no_torch(tmp_path: Path, form: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import mlflow

        mlflow.sklearn.save_model(classifier(), tmp_path / "model", serialization_format=form, pip_requirements=[])
    here = tmp_path / "here"
    here.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", QUIET, tmp_path / "model"],
        cwd=here,
        env=os.environ | {"HOME": str(here)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list(here.iterdir()) == []


def test_a_missing_package_is_one_sentence() -> None:
    program = """
import sys
sys.modules["mlflow"] = None
from pathlib import Path
from modelserve.errors import LoadError
from modelserve.backends.mlflow import MlflowBackend
try:
    MlflowBackend(Path("model"), allow_pickle=True)
except LoadError as error:
    print(error.message)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "model needs MLflow, which is not installed: pip install 'modelserve[mlflow]'\n"


def test_dates_are_what_the_reference_reads() -> None:
    """numpy's reading of ISO 8601 is Python's."""
    for text in ("2026-01-02", "2026-01-02T03:04", "2026-01-02T03:04:05.678"):
        assert np.datetime64(text).astype("datetime64[us]").item() == datetime.fromisoformat(text)
