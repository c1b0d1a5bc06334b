"""What a model reads, texts or rows of features: from a request to work for the queue, from its outputs to the answer.

`Model` has one, whichever it is, and asks nothing else of its inputs. Knows no protocol, no queue and no backend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from modelserve.backends.base import Backend
from modelserve.errors import RequestTooLarge
from modelserve.types import InferRequest, InferResponse, ModelInfo, Output, Takes, TensorSpec, Timings, Work


class At(Protocol):
    """Told the stage of a load and the fraction of the whole start that is done."""

    def __call__(self, stage: str, fraction: float, /, *, waits_for: str = "") -> None:
        """waits_for: why it does not go on, where that is somebody else's doing."""


DOWNLOADED = 0.4
"""Share of the bar that a download has; a directory that is there skips it at once."""


class Modality(Protocol):
    """The path of one kind of input, around the queue."""

    takes: Takes
    task_name: str

    def heavy(self, request: InferRequest) -> bool:
        """On the event loop: whether `preprocess` takes so long that short requests should not wait behind it."""

    def preprocess(self, request: InferRequest) -> Sequence[Work]:
        """In a thread of the pool: the valid work, an input of the request in each piece or all of them in one.

        Raises InvalidRequest, RequestTooLarge.
        """

    def reduce(self, states: Any, work: Sequence[Any]) -> list[Output]:
        """In a backend thread, once per pass."""

    def light(self, request: InferRequest, outputs: Sequence[Output]) -> bool:
        """On the event loop: whether `respond` takes so little that it may run there."""

    def respond(
        self, request: InferRequest, work: Sequence[Any], outputs: Sequence[Output], timings: Timings
    ) -> InferResponse:
        """Outputs to the answer in the wanted form."""

    def count_tokens(self, text: str) -> int:
        """Tokens of a text; 0 where there are none."""

    def inputs(self) -> list[TensorSpec]:
        """V2 metadata."""

    def outputs(self) -> list[TensorSpec]:
        """V2 metadata."""

    def describe(self) -> dict[str, Any]:
        """What the model is, for /info and the log."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model that can answer."""

    modality: Modality
    backend: Backend[Any, Any]
    backend_name: str
    info: ModelInfo | None = None
    """A Hugging Face model's directory."""
    trouble: Callable[[], str] = lambda: ""
    """Why the backend cannot compute now, though it may again by itself."""


def check_answer(size: int, limit: int) -> None:
    """Raises RequestTooLarge for an answer that the process might not survive: the whole vocabulary for thousands of
    masks, hidden states for thousands of texts."""
    if size > limit:
        raise RequestTooLarge(
            f"The answer would take about {size} bytes of memory, at most {limit} are allowed (--answer_limit); "
            "send fewer inputs or ask for less of each."
        )
