"""What it means that a remote predictor fails, over whichever protocol, and in whose words it is told. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from modelserve.errors import LoadError, ModelServeError, Overloaded, PredictorDown, PredictorFailed, RequestTimeout

CONNECT_S = 5.0
"""Longest time for a connection, and for a question about the model's health."""
_EXCERPT = 500
_OF_INPUT = (400, 413, 422, 500)
"""What is answered where one of the texts cannot be computed; Triton says 500 of a Python model that raised."""


def silent(where: str) -> PredictorDown:
    return PredictorDown(f"the remote predictor at {where} does not answer")


def late(where: str, timeout_s: float) -> RequestTimeout:
    return RequestTimeout(
        f"the remote predictor at {where} did not answer within {timeout_s:.3g} s "
        "(--predictor_request_timeout_seconds, --request_timeout)"
    )


def failure(where: str, status: int, headers: Mapping[str, str], body: bytes) -> ModelServeError:
    """What an answer that is no success means."""
    said = message(body)
    if status == 429 or (status == 503 and queue_is_full(said)):
        return Overloaded(f"the remote predictor is busy: {said}", retry_after_s=_seconds(headers))
    if status == 503:
        return PredictorDown(f"the remote predictor at {where} is not ready: {said}", retry_after_s=_seconds(headers))
    if status == 504:
        return RequestTimeout(f"the remote predictor timed out: {said}")
    return PredictorFailed(f"the remote predictor answered {status}: {said}", of_input=status in _OF_INPUT)


def message(body: bytes) -> str:
    """The sentence in an error's body: V1's and V2's {"error": …}, FastAPI's {"detail": …}, or the text itself."""
    try:
        found: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, RecursionError):
        found = body.decode("utf-8", "replace")
    if isinstance(found, dict):
        found = found.get("error") or found.get("detail") or found.get("message") or found
    if isinstance(found, dict):
        found = found.get("message") or found
    return sentence(str(found))


def sentence(said: str) -> str:
    """The remote's words in one line, without the places in its code where a Python model of Triton's failed."""
    return " ".join(said.partition("\n\nAt:\n")[0].split())[:_EXCERPT] or "nothing was said"


def queue_is_full(said: str) -> bool:
    """Triton says both of a full queue, and of a request that waited too long there, that it is not available."""
    return "Exceeds maximum queue size" in said or "Request timeout expired" in said


def absent(where: str, name: str, others: list[str] | None) -> LoadError:
    """No such model there. others: names of those that there are, None where it does not tell them."""
    there = "" if others is None else f"; it has {', '.join(others) or 'none'}"
    return LoadError(f"the remote predictor at {where} has no model named {name} (--model_name){there}")


def _seconds(headers: Mapping[str, str]) -> int:
    said = headers.get("retry-after", "")
    return min(600, max(1, int(said))) if said.isascii() and said.isdigit() and len(said) < 10 else 1
