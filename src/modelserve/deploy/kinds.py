"""The kinds of function. They differ only in data.

Pure; knows no store.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelserve.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Kind:
    """model_format: what --model_format is told, "" to let the server find out."""

    name: str
    help: str
    model_format: str = ""


KINDS = {
    kind.name: kind
    for kind in (
        Kind("huggingfaceserve", "A Hugging Face model: hf://, a directory, a zip, s3://, http(s)://."),
        Kind("sklearnserve", "A scikit-learn estimator: a pickle, joblib or skops file.", "sklearn"),
        Kind("mlflowserve", "An MLflow model: a directory with an MLmodel file.", "mlflow"),
    )
}


def check_kind(kind: object) -> Kind:
    """Raises ConfigError."""
    if not isinstance(kind, str) or kind not in KINDS:
        raise ConfigError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    return KINDS[kind]
