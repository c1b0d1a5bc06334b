"""The rows of one `generate`: chooses their tokens, has `generate` take them, and hands them to the sinks.

To transformers it is a logits processor, the last one, that leaves nothing but the chosen token of each row, and a
stopping criterion that says which rows have ended. Knows no model and no schedule; runs in the engine's thread.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from collections.abc import Sequence as Seq
from typing import Any

import torch
from transformers import LogitsProcessor, StoppingCriteria

from modelserve.backends.engine import end
from modelserve.backends.sampling import Row, Sampler
from modelserve.errors import InferenceFailed, ModelServeError
from modelserve.generation import Finish, Sequence

log = logging.getLogger(__name__)

Least = Callable[[int], int]


class Interrupted(Exception):
    """The engine is being closed; raised out of `generate`, caught by the engine."""


class Forced(LogitsProcessor):  # type: ignore[misc]
    """Sequences that are generated together, from the first step to the last."""

    def __init__(self, sequences: Seq[Sequence], sampler: Sampler, *, pad: int, last: int | None, least: Least) -> None:
        """pad: what a row that has ended goes on with. last: the token that a text ends with when it is cut off at
        its max_tokens (`forced_eos_token_id`), where it may end at all. least: tokens of a text, by its prompt."""
        self._sampler = sampler
        self._pad = pad
        self._last = last
        self._rows: dict[int, Row] = {i: sampler.row(sequence) for i, sequence in enumerate(sequences)}
        """Number in the batch -> those that have not ended."""
        for row in self._rows.values():
            row.least = max(row.least, least(len(row.sequence.prompt)))
        self.ended = [False] * len(sequences)
        self.computed = 0
        """Tokens of all rows so far."""
        self.step_began = time.monotonic()
        self.interrupted = False
        """Set by any thread: raise Interrupted at the next step."""

    def running(self) -> int:
        return len(self._rows)

    def left(self) -> list[tuple[Sequence, bool]]:
        """The sequences that have not ended, and whether each has had a token."""
        self._drop_cancelled()
        return [(row.sequence, row.generated > 0) for row in self._rows.values()]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if self.interrupted:
            raise Interrupted
        self._drop_cancelled()
        self.computed += len(self.ended)
        chosen = torch.full((len(self.ended),), self._pad)
        if self._rows:
            numbers, rows = list(self._rows), list(self._rows.values())
            everyone = len(numbers) == len(self.ended)
            seen = scores if everyone else scores[torch.tensor(numbers, device=scores.device)]
            cut = [i for i, row in enumerate(rows) if self._is_cut(row)]
            for i in cut:
                rows[i].least = 0
                seen[i] = -math.inf
                seen[i, self._last] = 0.0
            for i, token in enumerate(self._sampler.choose(seen, rows)):
                if isinstance(token, InferenceFailed):
                    self._end(numbers[i], token)
                    continue
                chosen[numbers[i]] = token.id
                self._put(numbers[i], token, "length" if i in cut else rows[i].finish)
        scores.fill_(-math.inf)
        scores.scatter_(1, chosen.to(scores.device)[:, None], 0.0)
        self.step_began = time.monotonic()
        return scores

    def end_all(self, error: ModelServeError, *, but: Seq[Sequence] = ()) -> None:
        """Those that have not ended, except `but`."""
        spared = set(map(id, but))
        for number in [number for number, row in self._rows.items() if id(row.sequence) not in spared]:
            self._end(number, error)

    def _is_cut(self, row: Row) -> bool:
        sequence = row.sequence
        return (
            self._last in sequence.end_ids
            and row.generated == sequence.max_tokens - 1 >= sequence.sampling.min_tokens
            and sequence.constraint is None
        )

    def _put(self, number: int, token: Any, finish: Finish | None) -> None:
        try:
            wanted = self._rows[number].sequence.sink.put(token)
        except Exception:  # a sink is the server's; what it raises is a fault of ours and must not end the others
            log.exception("a sink failed")
            wanted = False
        if not wanted:
            self._leave(number)
        elif finish is not None:
            self._end(number, finish)

    def _end(self, number: int, finish: Finish | ModelServeError) -> None:
        end(self._leave(number), finish)

    def _leave(self, number: int) -> Sequence:
        self.ended[number] = True
        return self._rows.pop(number).sequence

    def _drop_cancelled(self) -> None:
        for number in [number for number, row in self._rows.items() if row.sequence.cancelled]:
            self._leave(number)


class Ended(StoppingCriteria):  # type: ignore[misc]
    """Tells `generate` which rows have ended; it stops when all have."""

    def __init__(self, rows: Forced) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.tensor(self._rows.ended, device=input_ids.device)
