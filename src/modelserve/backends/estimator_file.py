"""An estimator from its file, and what of a file may run code: pickle and joblib do, skops tells.

Runs in the load thread; scikit-learn is imported when a file is read. Knows no configuration.
"""

from __future__ import annotations

import contextlib
import logging
import pickle
import sys
import warnings
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from pathlib import Path
from typing import Any

from modelserve.errors import LoadError

log = logging.getLogger(__name__)

SKOPS = ".skops"

INSTALL = "pip install 'modelserve[sklearn]'"


def read(file: Path, *, allow_pickle: bool) -> Any:
    """The estimator in the file. Raises LoadError: not trusted, damaged, or made of packages that are not here."""
    is_skops = file.suffix.lower() == SKOPS
    if not is_skops and not allow_pickle:
        raise LoadError(
            f"{file.name} is a pickle, and loading it runs whatever code is in it; give --allow_pickle if you trust "
            "it, or write the model with skops.io.dump"
        )
    with one_warning(), _in_our_words(file):
        estimator = _skops(file, allow_pickle) if is_skops else _joblib(file)
    if not any(hasattr(estimator, method) for method in ("predict", "transform")):
        raise LoadError(f"{file.name} holds a {type(estimator).__name__}, which has neither predict nor transform")
    return estimator


def _joblib(file: Path) -> Any:
    """joblib reads plain pickles too."""
    try:
        import joblib
        import sklearn  # noqa: F401  whose absence a pickle would tell less clearly
    except ImportError as error:
        raise LoadError(f"{file.name} needs scikit-learn, which is not installed: {INSTALL}") from error
    return joblib.load(file)


def _skops(file: Path, allow_pickle: bool) -> Any:
    try:
        with without_torch():
            import skops.io
    except ImportError as error:
        raise LoadError(f"{file.name} needs skops, which is not installed: {INSTALL}") from error
    untrusted = skops.io.get_untrusted_types(file=file)
    if untrusted and not allow_pickle:
        raise LoadError(
            f"{file.name} has types that skops does not know to be safe: {', '.join(untrusted)}; loading them may run "
            "code that is in them; give --allow_pickle if you trust the file"
        )
    return skops.io.load(file, trusted=untrusted)


@contextlib.contextmanager
def without_torch() -> Iterator[None]:
    """skops imports every module of scikit-learn to list its estimators, and one of those imports torch where it is
    installed: two seconds and 200 MB for nothing. It does without where torch cannot be found."""
    finder = _NoTorch()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)


class _NoTorch(MetaPathFinder):
    def find_spec(self, fullname: str, path: object = None, target: object = None) -> None:
        if fullname == "torch":
            raise ModuleNotFoundError("torch is not imported here", name=fullname)


@contextlib.contextmanager
def _in_our_words(file: Path) -> Iterator[None]:
    """Whatever reading raises, as one sentence: a pickle may raise anything."""
    try:
        yield
    except LoadError:
        raise
    except ModuleNotFoundError as error:
        raise LoadError(
            f"{file.name} needs the package {(error.name or '?').partition('.')[0]}, which is not installed"
        ) from error
    except (EOFError, pickle.UnpicklingError) as error:
        raise LoadError(
            f"{file.name} is damaged, cut off, or no pickle ({file.stat().st_size} bytes: {first_line(error)})"
        ) from error
    except Exception as error:
        raise LoadError(f"{file.name} cannot be loaded: {first_line(error)}") from error


@contextlib.contextmanager
def one_warning() -> Iterator[None]:
    """scikit-learn warns of another version once for each step; here it is one line. Others are logged as they are."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
    others: dict[str, set[str]] = {}
    for warning in caught:
        given: Any = warning.message
        if type(given).__name__ == "InconsistentVersionWarning":
            others.setdefault(given.original_sklearn_version, set()).add(given.estimator_name)
        elif not issubclass(warning.category, DeprecationWarning | PendingDeprecationWarning):
            log.warning("%s", first_line(given))
    for version, names in others.items():
        import sklearn

        log.warning(
            "the model was saved by scikit-learn %s and is read by %s, which may answer otherwise (%s)",
            version,
            sklearn.__version__,
            ", ".join(sorted(names)),
        )


def first_line(error: object) -> str:
    """Of an error's text, which may have many; its class's name where it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
