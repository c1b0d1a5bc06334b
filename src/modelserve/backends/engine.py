"""What an engine is: something that makes texts of prompts, many at once, token by token.

It owns its threads, its KV memory and its schedule. Knows no text (it sees token ids), no protocol and no queue of
requests: `runtime/generator.py` bounds what waits, writes tokens as text and counts.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from modelserve.errors import ModelServeError
from modelserve.generation import Finish, Sequence

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What the server must know of an engine."""

    context_length: int
    """Most tokens of prompt and answer together; for an encoder-decoder, of either."""
    max_running: int
    """Sequences that it works on at once; more wait in it."""
    encoder_decoder: bool = False
    lacks: frozenset[str] = field(default_factory=frozenset)
    """Fields of `Sampling` that it cannot do (`logit_bias`, `grammar`, …): asking for one is the caller's error."""
    adapters: Mapping[str, str] = field(default_factory=dict)
    """Further models that share its weights (LoRA), by their names: where each is from. `Sequence.model_name` says
    which of them writes."""


class Engine(Protocol):
    """A loaded generative model."""

    limits: EngineLimits
    end_ids: Collection[int]
    """Token ids that end a text, as the model's generation config says."""
    lost: bool
    """It will not generate again in this process; liveness turns false."""

    def start(self, sequence: Sequence) -> None:
        """Take it on; from any thread, returns at once. Everything else comes through its sink."""

    def cancel(self, sequence: Sequence) -> None:
        """Compute no further step for it; from any thread. Its sink hears nothing more, and its memory is free after
        the step that runs."""

    def running(self) -> int:
        """Sequences that are in a step now."""

    def waiting(self) -> int:
        """Sequences taken on that no step has begun."""

    def stuck_s(self) -> float:
        """Seconds that the step in progress has taken so far; 0 between steps."""

    def close(self) -> None:
        """Take on nothing more; what runs ends with NotReady after its step, then the weights are freed. Returns at
        once."""

    def join(self, timeout_s: float) -> bool:
        """After `close`: wait for that; false when it takes longer."""

    def describe(self) -> dict[str, Any]:
        """device, dtype, how it runs and why, for /info and the log."""


def end(sequence: Sequence, finish: Finish | ModelServeError) -> None:
    """Its sink's last call, unless it was cancelled. A sink is the server's: what it raises must not end the engine."""
    if sequence.cancelled:
        return
    try:
        sequence.sink.end(finish)
    except Exception:
        log.exception("a sink failed")
