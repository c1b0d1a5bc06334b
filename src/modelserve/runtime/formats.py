"""Which format a model is in, told from its files or by --model_format, and where its file is.

Opens no file and imports no library of models. Runs in the load thread.
"""

from __future__ import annotations

from pathlib import Path

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime.weights import listed

_ESTIMATORS = (".joblib", ".pkl", ".pickle", ".skops")
_MLMODEL = "MLmodel"


def model_format(config: Config, path: Path | None) -> str:
    """--model_format, or what the files at `path` are; huggingface for a model id, and where nothing says more.

    path: --model_dir on this machine, None for a model id. Raises LoadError for a model id in another format.
    """
    given = config.model_format
    if path is None:
        if given not in (None, "huggingface"):
            raise LoadError(f"--model_id is a Hugging Face model; --model_format {given} is read from --model_dir")
        return "huggingface"
    if given is not None:
        return given
    if path.name == _MLMODEL or (path / _MLMODEL).is_file():
        return "mlflow"
    if path.is_file():
        return "sklearn" if path.suffix.lower() in _ESTIMATORS else "huggingface"
    return "sklearn" if not (path / "config.json").exists() and _estimators(path) else "huggingface"


def estimator_file(path: Path) -> Path:
    """The one pickle, joblib or skops file there. Raises LoadError."""
    _check(path)
    if path.is_file():
        return path
    found = _estimators(path)
    if len(found) != 1:
        names = listed([file.name for file in found or path.iterdir()])
        holds = f"{len(found)} of them: {names}; give the path of one" if found else names
        raise LoadError(f"{path} (--model_dir) must hold one file with {', '.join(_ESTIMATORS)}, and it holds {holds}")
    return found[0]


def mlflow_directory(path: Path) -> Path:
    """The directory there with an MLmodel file. Raises LoadError."""
    _check(path)
    directory = path.parent if path.name == _MLMODEL else path
    if not (directory / _MLMODEL).is_file():
        holds = f"holds {listed([entry.name for entry in path.iterdir()])}" if path.is_dir() else "is a file"
        raise LoadError(f"there is no {_MLMODEL} in {path} (--model_dir), which {holds}")
    return directory


def _check(path: Path) -> None:
    if not path.exists():
        raise LoadError(f"there is no {path} (--model_dir)")


def _estimators(path: Path) -> list[Path]:
    if not path.is_dir():
        return []
    return sorted(file for file in path.iterdir() if file.suffix.lower() in _ESTIMATORS and file.is_file())
