"""What serves a loaded model's requests: forward passes that requests share (batched.py), or generation (writing.py).

`Model` has one while it is loaded, and asks nothing else of it. Knows no protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from modelserve.types import InferRequest, InferResponse, ModelInfo, Takes, TensorSpec

if TYPE_CHECKING:
    from modelserve.runtime.writing import Writing


class Service(Protocol):
    """A loaded model at work."""

    takes: Takes
    task_name: str
    info: ModelInfo | None
    """A Hugging Face model's directory."""
    backend_name: str
    writing: Writing | None
    """How it writes text, where that is what it does."""

    async def infer(self, request: InferRequest) -> InferResponse:
        """Answer a request of at least one input; cancelling the caller's task frees what it holds.

        Raises InvalidRequest, RequestTooLarge, Overloaded, NotReady, InferenceFailed.
        """

    def count_tokens(self, text: str) -> int:
        """Tokens of a text, special tokens not counted; 0 where there are none."""

    def inputs(self) -> list[TensorSpec]:
        """V2 metadata."""

    def outputs(self) -> list[TensorSpec]:
        """V2 metadata."""

    def describe(self) -> dict[str, Any]:
        """What is served and how, for /info and the log."""

    def busy(self) -> bool:
        """Somebody waits for an answer."""

    def trouble(self) -> str:
        """Why it cannot answer now, though it is loaded and may again by itself; "" when it can."""

    def live(self) -> bool:
        """False when a step has run for --liveness_timeout or the device is lost."""

    def close(self) -> None:
        """Accept nothing more; whoever still waits is answered NotReady; end the threads."""

    def free(self) -> None:
        """After `close`: wait for what runs (at most --shutdown_timeout seconds) and free the weights. Blocking."""
