"""An estimator from its file: what is trusted, what is told when it cannot be read, what is found out of it."""

from __future__ import annotations

import logging
import pickle
import re
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
import sklearn
import skops.io
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from modelserve.backends.rows import ROWS
from modelserve.backends.sklearn import SklearnBackend, text_columns
from modelserve.errors import InvalidRequest, LoadError
from modelserve.tasks.base import Answer, Estimate
from modelserve.types import Rows
from tests.estimators import IRIS, SKLEARN, SPECIES, estimator


class Touch:
    """Unpickled, it has run code."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return Path.touch, (self.file,)


class Own(BaseEstimator):
    """Answers as `answer` says. Knows no number of features, so that any rows reach it."""

    def __init__(self, answer: Any = None) -> None:
        self.answer = answer

    def predict(self, rows: Any) -> Any:
        return self.answer(rows)


def as_many(rows: Any) -> Any:
    return np.asarray(rows)[:, 0]


def one_less(rows: Any) -> Any:
    return np.asarray(rows)[1:, 0]


def uneven(rows: Any) -> Any:
    return {"first": np.asarray(rows)[1:, 0], "all": np.asarray(rows)[:, 0]}


def total(rows: Any) -> Any:
    return {"sum": float(np.sum(rows)), "rows": len(rows)}


def fault(rows: Any) -> Any:
    return len(rows) + "1"


def dumped(value: Any, file: Path) -> Path:
    joblib.dump(value, file)
    return file


def reduce(estimate: Estimate, rows: Sequence[Rows]) -> list[Answer]:
    """As a task does: one call, and to each what is theirs."""
    answer = estimate("predict")
    if len(rows) == 1:
        return [answer]
    ends = np.cumsum([len(one) for one in rows])
    return [answer.part(end - len(one), end) for one, end in zip(rows, ends, strict=True)]


def refused(file: Path, **flags: Any) -> str:
    with pytest.raises(LoadError) as caught:
        SklearnBackend(file, **flags)
    return caught.value.message


@pytest.mark.parametrize("ending", [".pkl", ".pickle", ".joblib", ""])
def test_no_pickle_is_opened_without_leave(tmp_path: Path, ending: str) -> None:
    touched = tmp_path / "touched"
    file = tmp_path / f"model{ending}"
    file.write_bytes(pickle.dumps(Touch(touched)))
    assert refused(file) == (
        f"model{ending} is a pickle, and loading it runs whatever code is in it; give --allow_pickle if you trust it, "
        "or write the model with skops.io.dump"
    )
    assert not touched.exists()
    assert (
        refused(file, allow_pickle=True) == f"model{ending} holds a NoneType, which has neither predict nor transform"
    )
    assert touched.exists(), "the test would see it"


UNTRUSTED = {
    "two_classifiers": "sklearn.tree._tree.Tree",
    "frame_scaler": "numpy.dtype",
    "table_pipeline": "numpy.dtype",
}
"""What skops 0.16 does not trust in them."""


@pytest.mark.parametrize("name", SKLEARN)
def test_skops_needs_leave_for_what_it_does_not_trust(name: str) -> None:
    file = estimator(name, ".skops")
    if name in UNTRUSTED:
        assert refused(file) == (
            f"{name}.skops has types that skops does not know to be safe: {UNTRUSTED[name]}; loading them may run code "
            "that is in them; give --allow_pickle if you trust the file"
        )
    backend = SklearnBackend(file, allow_pickle=name in UNTRUSTED)
    assert backend.describe()["estimator"] == type(SKLEARN[name]()).__name__


def test_skops_with_types_that_it_does_not_know(tmp_path: Path) -> None:
    file = tmp_path / "model.skops"
    skops.io.dump(make_pipeline(FunctionTransformer(as_many), Own()), file)
    message = refused(file)
    assert message.startswith("model.skops has types that skops does not know to be safe: ")
    assert f"{__name__}.Own" in message
    assert message.endswith("give --allow_pickle if you trust the file")
    assert SklearnBackend(file, allow_pickle=True).signature.methods == ("predict",)


def test_a_pickle_that_is_called_skops(tmp_path: Path) -> None:
    file = tmp_path / "model.skops"
    file.write_bytes(pickle.dumps(Touch(tmp_path / "touched")))
    assert refused(file).startswith("model.skops cannot be loaded: ")
    assert refused(file, allow_pickle=True).startswith("model.skops cannot be loaded: ")
    assert not (tmp_path / "touched").exists()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("schema.json", "{}")
    assert refused(file).startswith("model.skops cannot be loaded: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", r"model.pkl is damaged, cut off, or no pickle \(0 bytes: "),
        (b"not a pickle at all", "model.pkl (is damaged|cannot be loaded)"),
        (pickle.dumps(LogisticRegression())[:-20], r"model.pkl is damaged, cut off, or no pickle \(\d+ bytes"),
        (pickle.dumps({"weights": [1]}), "model.pkl holds a dict, which has neither predict nor transform"),
        (b"cno_such_package.models\nForest\n.", "model.pkl needs the package no_such_package, which is not installed"),
        (b"csklearn.svm\nNothing\n.", "model.pkl cannot be loaded: module 'sklearn.svm' has no attribute 'Nothing'"),
    ],
    ids=["empty", "text", "cut off", "a dict", "another package", "another version"],
)
def test_what_cannot_be_loaded(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "model.pkl"
    file.write_bytes(content)
    assert re.match(message, refused(file, allow_pickle=True))


def test_another_version_of_scikit_learn_is_one_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    fitted = SKLEARN["table_pipeline"]()
    state = pickle.dumps(fitted).replace(sklearn.__version__.encode(), b"1.2.3")
    file = tmp_path / "model.pkl"
    file.write_bytes(state)
    with caplog.at_level(logging.WARNING):
        SklearnBackend(file, allow_pickle=True)
    (line,) = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert line.startswith(f"the model was saved by scikit-learn 1.2.3 and is read by {sklearn.__version__}")
    assert "LogisticRegression, OneHotEncoder" in line


def test_what_is_found_out(tmp_path: Path) -> None:
    plain = SklearnBackend(estimator("classifier"), allow_pickle=True)
    assert (plain.signature.form, plain.signature.methods) == ("array", ("predict", "predict_proba"))
    assert [(one.name, one.datatype, one.shape) for one in plain.signature.inputs] == [("input-0", "FP64", (-1, 4))]
    assert plain.limits.layout == "packed"
    assert plain.limits.max_batch_tokens == ROWS
    assert SklearnBackend(estimator("scaler"), allow_pickle=True).signature.methods == ("transform",)
    table = SklearnBackend(estimator("table_pipeline"), allow_pickle=True, max_rows=5, threads=1)
    assert table.signature.form == "table"
    assert [(one.name, one.datatype) for one in table.signature.inputs] == [
        ("age", "FP64"),
        ("income", "FP64"),
        ("city", "BYTES"),
    ]
    assert (table.limits.max_batch_tokens, table.describe()["threads"]) == (5, 1)
    assert text_columns(SKLEARN["table_pipeline"]()) == {"city": "Bolzano"}
    assert SklearnBackend(estimator("text_classifier"), allow_pickle=True).signature.form == "texts"
    own = SklearnBackend(dumped(Own(as_many), tmp_path / "own.joblib"), allow_pickle=True)
    assert (own.signature.form, own.limits.layout) == ("any", "single")


def test_a_model_that_does_not_answer_each_row_is_asked_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = SklearnBackend(dumped(Own(one_less), tmp_path / "own.joblib"), allow_pickle=True)
    rows = [Rows(IRIS[:3], ("predict",)), Rows(IRIS[3:5], ("predict",))]
    with caplog.at_level(logging.WARNING):
        outputs = backend.forward(rows, reduce)
    assert [output.values.tolist() for output in outputs] == [IRIS[1:3, 0].tolist(), IRIS[4:5, 0].tolist()]
    assert caplog.messages == ["layout single: it does not answer each row by itself"]
    assert (backend.limits.layout, backend.describe()["layout_reason"]) == (
        "single",
        "it does not answer each row by itself",
    )


@pytest.mark.parametrize(("threads", "jobs"), [(None, 1), (3, 3)])
def test_jobs_are_those_of_the_server(tmp_path: Path, threads: int | None, jobs: int) -> None:
    forest = RandomForestClassifier(n_estimators=3, n_jobs=-1).fit(IRIS, SPECIES)
    file = dumped(make_pipeline(StandardScaler(), forest).fit(IRIS, SPECIES), tmp_path / "forest.joblib")
    backend = SklearnBackend(file, allow_pickle=True, threads=threads)
    assert backend._estimator[-1].n_jobs == jobs
    assert SklearnBackend(estimator("two_classifiers"), allow_pickle=True)._estimator.n_jobs is None


def test_rows_that_are_not_alike_are_not_joined(tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    backend = SklearnBackend(estimator("classifier"), allow_pickle=True)
    predict = backend._estimator.predict

    def watched(rows: Any) -> Any:
        seen.append((len(rows), rows.dtype.str))
        return predict(rows)

    backend._estimator.predict = watched
    whole = np.array([[5, 3, 1, 0]])
    rows = [Rows(IRIS[:2], ("predict",)), Rows(whole, ("predict",)), Rows(IRIS[140:], ("predict",))]
    outputs = backend.forward(rows, reduce)
    assert seen == [(12, "<f8"), (1, "<i8")]
    assert [output.values.tolist() for output in outputs] == [[0, 0], [0], SPECIES[140:].tolist()]


def test_anything_that_a_model_may_return(tmp_path: Path) -> None:
    def ask(answer: Any) -> Answer:
        backend = SklearnBackend(dumped(Own(answer), tmp_path / "own.joblib"), allow_pickle=True)
        output: Answer = backend.forward([Rows(IRIS[:2], ("predict",))], reduce)[0]
        return output

    assert ask(total).values.tolist() == [{"sum": pytest.approx(19.7), "rows": 2}]
    with pytest.raises(TypeError):  # ours: it becomes a 500
        ask(fault)


def test_refusals_are_told_from_faults() -> None:
    backend = SklearnBackend(estimator("classifier"), allow_pickle=True)
    with pytest.raises(InvalidRequest, match="the model refuses this input: Input X contains NaN"):
        backend.forward([Rows(np.full((1, 4), np.nan), ("predict",))], reduce)


MISSING = """
import sys
from importlib.abc import MetaPathFinder
class Missing(MetaPathFinder):
    def find_spec(self, fullname, path=None, target=None):
        if fullname == sys.argv[1]:
            raise ModuleNotFoundError(f"No module named {fullname}", name=fullname)
sys.meta_path.insert(0, Missing())
from pathlib import Path
from modelserve.errors import LoadError
from modelserve.backends.sklearn import SklearnBackend
try:
    SklearnBackend(Path(sys.argv[2]), allow_pickle=True)
except LoadError as error:
    print(error.message)
"""


@pytest.mark.parametrize(
    ("missing", "file", "message"),
    [
        ("sklearn", "classifier.joblib", "classifier.joblib needs scikit-learn, which is not installed"),
        ("skops", "classifier.skops", "classifier.skops needs skops, which is not installed"),
        (
            "pandas",
            "table_pipeline.joblib",
            "table_pipeline.joblib was fitted on a table with named columns, which takes pandas",
        ),
    ],
)
def test_a_missing_package_is_one_sentence(missing: str, file: str, message: str) -> None:
    name, _, ending = file.partition(".")
    path = estimator(name, f".{ending}")
    done = subprocess.run(
        [sys.executable, "-c", MISSING, missing, str(path)], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == f"{message}: pip install 'modelserve[sklearn]'"
