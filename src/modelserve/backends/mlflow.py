"""An MLflow model, whatever made it, through its python_function: loads the directory, reads its signature, asks it.

Knows no queue, no protocol and no task. Loaded in the load thread, asked in the stream thread.
"""

from __future__ import annotations

import base64
import binascii
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from modelserve.backends import answers, rowwise
from modelserve.backends.estimator_file import first_line, one_warning, without_torch
from modelserve.backends.rows import RowsBackend, Values
from modelserve.backends.sklearn import set_jobs
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.base import Answer
from modelserve.types import Array, Rows, Signature, TensorSpec, datatype

log = logging.getLogger(__name__)

MLMODEL = "MLmodel"
_OUTPUT = "output-1"
"""MLServer's name for an output that has none."""
_DATATYPES = {
    "boolean": "BOOL",
    "integer": "INT32",
    "long": "INT64",
    "float": "FP32",
    "double": "FP64",
}
"""MLflow's types of columns; all others travel as BYTES."""


class MlflowBackend(RowsBackend):
    """A loaded python_function, ready to be asked."""

    def __init__(
        self,
        path: Path,
        *,
        allow_pickle: bool = False,
        threads: int | None = None,
        max_rows: int | None = None,
    ) -> None:
        """Raises LoadError when the directory is not trusted or cannot be loaded."""
        if not allow_pickle:
            raise LoadError(
                f"{path.name} is an MLflow model: loading it imports code that it names and unpickles what is in it; "
                "give --allow_pickle if you trust it"
            )
        self._model = _load(path)
        self._kinds: dict[str, str] = {}
        """MLflow's types of the columns, where it has a signature of columns."""
        self.signature = self._signature()
        raw = _raw(self._model)
        set_jobs(raw, threads)
        objection = rowwise.objection(raw)
        if any(spec.shape[0] != -1 for spec in self.signature.inputs):
            objection = "its signature says how many rows there are"
        super().__init__(objection, threads, max_rows)

    def prepare(self, values: Values) -> Any:
        """Columns for a signature of columns, and for none; arrays as they are for tensors."""
        import pandas

        form = self.signature.form
        if form == "tensors" or (isinstance(values, np.ndarray) and form != "table"):
            return values
        if isinstance(values, np.ndarray):
            return pandas.DataFrame(values, columns=[spec.name for spec in self.signature.inputs])
        read = {name: _read(column, self._kinds.get(name, "string"), name) for name, column in values.items()}
        return pandas.DataFrame(read)

    def ask(self, prepared: Any, method: str, options: Mapping[str, Any]) -> Answer:
        from mlflow.exceptions import MlflowException

        try:
            result = self._model.predict(prepared, params=dict(options) or None)
        except MlflowException as error:
            if error.error_code != "INVALID_PARAMETER_VALUE":
                raise
            # MLflow's own sentence repeats the whole input before it comes to the reason.
            raise InvalidRequest(f"the model refuses this input: {first_line(error.__context__ or error)}") from error
        except ValueError as error:
            raise InvalidRequest(f"the model refuses this input: {first_line(error)}") from error
        return answers.of(result)

    def close(self) -> None:
        del self._model

    def describe(self) -> dict[str, Any]:
        import mlflow

        return super().describe() | {
            "flavors": sorted(self._model.metadata.flavors),
            "versions": {"mlflow": mlflow.__version__},
        }

    def _signature(self) -> Signature:
        given = self._model.metadata.signature
        schema = given.inputs if given else None
        outputs = tuple(_specs(given.outputs, _OUTPUT)) if given and given.outputs else ()
        options = frozenset(param.name for param in given.params.params) if given and given.params else frozenset()
        unknown = Signature("any", (), ("predict",), outputs, by_method=False, options=options, sample=self._sample())
        if schema is None or not (schema.is_tensor_spec() or schema.has_input_names()):
            return unknown
        inputs = tuple(_specs(schema, "input-0"))
        if schema.is_tensor_spec():
            return replace(unknown, form="tensors" if schema.has_input_names() else "array", inputs=inputs, typed=True)
        self._kinds = {one.name: str(getattr(one.type, "name", "json")) for one in schema.inputs}
        return replace(unknown, form="table", inputs=inputs, typed=True)

    def _sample(self) -> Rows | None:
        """The model's own example, where it has one."""
        try:
            example = self._model.input_example
        except Exception as error:  # it is there to be read by people, and may be anything
            log.debug("the input example was not read: %s", error)
            return None
        if isinstance(example, np.ndarray) and example.ndim:
            return Rows(example)
        if hasattr(example, "columns") and len(example):
            return Rows({str(name): example[name].to_numpy() for name in example.columns})
        return None


def _load(path: Path) -> Any:
    # Read when MLflow is imported: it would call home, and write log lines of its own form.
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_CONFIGURE_LOGGING", "false")
    try:
        import mlflow.pyfunc
        import pandas  # noqa: F401
    except ImportError as error:
        raise LoadError(
            f"{path.name} needs MLflow, which is not installed: pip install 'modelserve[mlflow]'"
        ) from error
    try:
        with one_warning():
            flavor = mlflow.models.Model.load(str(path)).flavors.get("sklearn", {})
            if flavor.get("serialization_format") == "skops":
                with without_torch():
                    import skops.io  # noqa: F401
            return mlflow.pyfunc.load_model(str(path))
    except ModuleNotFoundError as error:
        hint = f"; pip install -r {path / 'requirements.txt'}" if (path / "requirements.txt").is_file() else ""
        raise LoadError(f"{path.name} needs the package {error.name}, which is not installed{hint}") from error
    except Exception as error:  # of MLflow, of a pickle, of the model's own code
        raise LoadError(f"{path.name} cannot be loaded: {first_line(error)}") from error


def _raw(model: Any) -> Any:
    """What is behind the python_function; the function itself where it does not say."""
    for unwrap in (model.get_raw_model, model.unwrap_python_model):
        try:
            return unwrap()
        except Exception as error:  # each is for some models only
            log.debug("the model does not show what it is made of: %s", error)
    return model


def _specs(schema: Any, unnamed: str) -> Sequence[TensorSpec]:
    """Tensors of V2; a single dimension is a column there."""
    specs = []
    for one in schema.inputs:
        if schema.is_tensor_spec():
            shape = tuple(one.shape) if len(one.shape) > 1 else (-1, 1)
            specs.append(TensorSpec(one.name or unnamed, datatype(one.type), shape))
        else:
            kind = _DATATYPES.get(getattr(one.type, "name", ""), "BYTES")
            specs.append(TensorSpec(one.name or unnamed, kind, (-1, 1)))
    return specs


def _read(column: Array, kind: str, name: str) -> Array:
    """A column of texts as what they stand for in MLflow: MLServer's clients send these types so."""
    if column.dtype.kind != "O" or kind in _DATATYPES or kind == "string":
        return column
    readers: dict[str, Callable[[str], Any]] = {"binary": _bytes, "datetime": np.datetime64}
    read = readers.get(kind, msgspec.json.decode)
    try:
        values = [read(value) if isinstance(value, str) else value for value in column]
    except (ValueError, msgspec.DecodeError) as error:
        raise InvalidRequest(f"column {name} has an element that is no {kind}: {first_line(error)}") from error
    if kind == "datetime":
        return np.array(values, dtype="datetime64[ns]")
    objects = np.empty(len(values), dtype=object)
    objects[:] = values
    return objects


def _bytes(value: str) -> bytes:
    """Base64, or the text itself where it is none: so does MLServer."""
    try:
        return base64.b64decode(value, validate=True)
    except binascii.Error:
        return value.encode()
