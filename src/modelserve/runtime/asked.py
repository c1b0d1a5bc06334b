"""How a text is wanted, by V1's and V2's request parameters. Pure functions; knows no protocol and no engine."""

from __future__ import annotations

from modelserve.errors import InvalidRequest
from modelserve.generation import Sampling
from modelserve.types import Params

_SAMPLING = (
    "min_tokens", "temperature", "top_p", "top_k", "min_p", "seed", "presence_penalty", "frequency_penalty",
    "repetition_penalty",
)  # fmt: skip
"""Request parameters that are fields of Sampling."""
_KNOWN = frozenset({*_SAMPLING, "max_tokens", "max_new_tokens", "stop"})
USUAL_TOKENS = 256
"""Of V1's and V2's answers where the request does not say: as transformers' pipeline."""


def sampling_of(params: Params, task: str) -> Sampling:
    """V1's and V2's request parameters. Greedy where nothing is said, as transformers' `generate`.

    Raises InvalidRequest for a value out of its range and for a parameter that means nothing to the task.
    """
    given = {name: value for name in params.__struct_fields__ if (value := getattr(params, name)) is not None}
    for name in given:
        if name not in _KNOWN:
            raise InvalidRequest(f"{name} means nothing to the task {task}", param=name)
    fields = {name: given[name] for name in _SAMPLING if name in given}
    stop = given.get("stop", ())
    return checked(
        Sampling(
            **{"temperature": 0.0, **fields},
            max_tokens=given.get("max_tokens", given.get("max_new_tokens")),
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
        )
    )


_RANGES: dict[str, tuple[float, float]] = {
    "max_tokens": (1, 2**31), "min_tokens": (0, 2**31), "temperature": (0, 2), "top_p": (0, 1), "top_k": (-1, 2**31),
    "min_p": (0, 1), "seed": (-(2**63), 2**63 - 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2),
}  # fmt: skip


def checked(sampling: Sampling) -> Sampling:
    """It. Raises InvalidRequest for a value out of its range."""
    for name, (low, high) in _RANGES.items():
        value = getattr(sampling, name)
        if value is not None and not low <= value <= high:
            raise InvalidRequest(f"{name} is {value}; it must be between {low} and {high}", param=name)
    if any(not stop for stop in sampling.stop):
        raise InvalidRequest("stop has an empty text, which would end everything at once", param="stop")
    return sampling
