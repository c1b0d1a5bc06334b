"""The engine of our own: sequences join and leave between steps of one decoder-only model.

One thread loops over schedule -> decoder -> sampler -> sinks; it alone touches the model, the KV memory and the sinks.
`start`, `cancel` and the counts are for any thread. Knows no text and no protocol; what goes into a step is decided in
runtime/schedule.py.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Collection
from dataclasses import replace
from typing import Any

import torch

from modelserve.backends import sampling
from modelserve.backends.base import DeviceLost, OutOfMemory
from modelserve.backends.decoder import Piece
from modelserve.backends.engine import EngineLimits, end
from modelserve.backends.faults import computing
from modelserve.backends.memory import HostMemory
from modelserve.backends.slots import Slot
from modelserve.backends.steps import Steps
from modelserve.errors import InferenceFailed, InvalidRequest, ModelServeError, NotReady
from modelserve.generation import Finish, Sequence, Token
from modelserve.runtime.pace import Paces
from modelserve.runtime.schedule import LEAST_CHUNK, Bounds, Plan, plan

log = logging.getLogger(__name__)

CHUNK = {"cpu": 1024, "cuda": 8192}
"""Tokens of newcomers in a step when nobody else runs. A CPU's throughput is flat from some hundred tokens on."""
_LOST = "the device has failed; this server must be restarted"
_CLOSED = "the server is shutting down"


class _Row:
    """A sequence as the engine keeps it: what the schedule sees, and its sampler's state."""

    __slots__ = ("computed", "ids", "scores", "sequence", "slot", "state")

    def __init__(self, sequence: Sequence) -> None:
        self.sequence = sequence
        self.ids = list(sequence.prompt)
        self.computed = 0
        self.slot: Slot | None = None
        self.state: sampling.Row | None = None
        self.scores: list[Token] = []
        if sequence.sampling.prompt_logprobs:
            self.scores.append(Token(sequence.prompt[0], math.nan))

    @property
    def length(self) -> int:
        return len(self.ids)

    @property
    def final(self) -> int:
        return len(self.sequence.prompt) + self.sequence.max_tokens

    @property
    def scored(self) -> bool:
        return 0 < len(self.scores) < len(self.sequence.prompt)

    @property
    def cancelled(self) -> bool:
        return self.sequence.cancelled


class IterationEngine:
    """A decoder-only model that works on many sequences at once."""

    def __init__(
        self,
        decoder: Steps,
        *,
        end_ids: Collection[int],
        context_length: int,
        max_running: int,
        kv_tokens: int | None = None,
        chunk: int | None = None,
        threads: int | None = None,
        sampler: sampling.Sampler | None = None,
    ) -> None:
        """context_length: the model's. kv_tokens: most tokens that the KV memory of all sequences has room for, a
        share of the free memory when not given. Raises LoadError where that is too little for anything.
        """
        tokens = decoder.allot(kv_tokens, context=context_length, sequences=max_running)
        self.limits = EngineLimits(context_length=min(context_length, tokens), max_running=max_running)
        self.end_ids = end_ids
        self.lost = False
        self._decoder = decoder
        self._sampler = sampler or sampling.Sampler(decoder.vocabulary, decoder.device)
        self._threads = threads
        self._bounds = Bounds(max_running, tokens, chunk or CHUNK[decoder.device.type])
        self._paces = Paces()
        self._memory = HostMemory()
        self._wake = threading.Condition()
        self._arrived: deque[Sequence] = deque()
        self._waiting: list[_Row] = []
        self._running: list[_Row] = []
        self._closed = False
        self._step_began = 0.0
        self._thread = threading.Thread(target=self._run, name="modelserve-engine", daemon=True)
        self._thread.start()

    def start(self, sequence: Sequence) -> None:
        with self._wake:
            closed, lost = self._closed, self.lost
            if not closed and not lost:
                self._arrived.append(sequence)
                self._wake.notify()
        if closed or lost:
            sequence.sink.end(NotReady(_CLOSED) if closed else InferenceFailed(_LOST))

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True  # the thread is awake: it sleeps only when it has no sequences

    def running(self) -> int:
        return len(self._running)

    def waiting(self) -> int:
        return len(self._arrived) + len(self._waiting)

    def stuck_s(self) -> float:
        began = self._step_began
        return time.monotonic() - began if began else 0.0

    def close(self) -> None:
        with self._wake:
            self._closed = True
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def describe(self) -> dict[str, Any]:
        return {
            **self._decoder.describe(),
            "max_running": self.limits.max_running,
            "kv_tokens": self._bounds.tokens,
        }

    def _run(self) -> None:
        if self._threads and self._decoder.device.type == "cpu":
            torch.set_num_threads(self._threads)
        try:
            with computing(self._decoder.device):
                while self._join():
                    self._step()
                    if not self._running and not self._waiting:
                        self._decoder.slots.clear()
            self._end_all(NotReady(_CLOSED))
        except BaseException:  # DeviceLost; anything else is a fault of ours, which must leave nobody waiting
            log.exception("the engine has failed; liveness turns false")
            with self._wake:
                self.lost = True
            self._end_all(InferenceFailed(_LOST))
        self._decoder.close()

    def _join(self) -> bool:
        """Wait for somebody to compute for, take on who has come; false when the engine is closed."""
        with self._wake:
            while not (self._closed or self._arrived or self._waiting or self._running):
                self._wake.wait()
            if self._closed:
                return False
            arrived = [_Row(sequence) for sequence in self._arrived]
            self._waiting += arrived
            self._arrived.clear()
        for row in arrived:
            if row.final > self.limits.context_length:
                self._finish(
                    row,
                    InvalidRequest(
                        f"the prompt's {len(row.ids)} tokens and up to {row.sequence.max_tokens} more are over the "
                        f"{self.limits.context_length} that there is room for",
                        param="max_tokens",
                    ),
                )
        return True

    def _step(self) -> None:
        """One step. Afterwards everyone in it has got on, or has its error."""
        decoding = sum(row.length - row.computed == 1 for row in self._running)
        work = self._place(plan(self._running, self._waiting, self._bounds, self._paces.now(decoding)))
        if not work:
            return
        self._step_began = began = time.monotonic()
        try:
            chosen = self._compute(work)
        except DeviceLost:
            raise
        except OutOfMemory as error:
            self._make_room(work, error)
            return
        except BaseException:  # custom model code may raise anything; this thread must outlive it
            log.exception("a step of %d sequences failed", len(work))
            for row, _ in work:
                self._finish(row, InferenceFailed("the model failed on this input"))
            return
        finally:
            self._step_began = 0.0
        newcomers = sum(n for _, n in work if n > 1)
        self._paces.took(time.monotonic() - began, sum(n == 1 for _, n in work), newcomers)
        self._memory.after_pass(len(work) + newcomers)
        for row, token in chosen:
            self._deliver(row, token)

    def _place(self, todo: Plan) -> list[tuple[_Row, int]]:
        """Take out who leaves, let in who may; who computes how many tokens."""
        admitted = [self._waiting[i] for i in todo.admitted]
        evicted = [self._running[i] for i in todo.evicted]
        rows = [*self._running, *admitted]
        work = [(rows[i], n) for i, n in todo.work]
        out = {*todo.evicted, *todo.dropped_running}
        for i in out:
            self._leave(self._running[i])
        left = {*todo.admitted, *todo.dropped_waiting}
        self._waiting = [*evicted, *(row for i, row in enumerate(self._waiting) if i not in left)]
        self._running = [row for i, row in enumerate(rows) if i not in out]
        for row in admitted:
            row.slot = self._decoder.slots.take()
        if evicted:
            log.info("the KV memory is full: %d sequences wait again", len(evicted))
        return work

    def _compute(self, work: list[tuple[_Row, int]]) -> list[tuple[_Row, Token | InferenceFailed | None]]:
        """The step itself, up to who gets which token; None for those whose end it is without one."""
        pieces: list[Piece] = []
        for row, n in work:
            end = row.computed + n
            keep = n if row.scored else int(end == row.length < row.final)
            assert row.slot is not None
            pieces.append(Piece(row.slot, row.computed, row.ids[row.computed : end], keep))
        with computing(self._decoder.device):  # in here, so that _step sees its errors in our words
            logits = self._decoder.step(pieces)
            done: list[tuple[_Row, Token | InferenceFailed | None]] = []
            failed: list[tuple[_Row, Token | InferenceFailed | None]] = []
            wanted: list[int] = []
            at = 0
            for (row, n), piece in zip(work, pieces, strict=True):
                if row.scored:
                    try:
                        self._score(row, logits[at : at + piece.keep])
                    except InferenceFailed as error:
                        failed.append((row, error))
                row.computed += n
                at += piece.keep
                if row.computed == row.length and not (failed and failed[-1][0] is row):
                    if row.length < row.final:
                        wanted.append(at - 1)
                    done.append((row, None))
            speakers = [row for row, _ in done if row.length < row.final]
            if not speakers:
                return done + failed
            states = [self._state(row) for row in speakers]
            rows = logits if len(wanted) == len(logits) else logits[torch.tensor(wanted, device=logits.device)]
            tokens = dict(zip(map(id, speakers), self._sampler.choose(rows, states), strict=True))
        return [(row, tokens.get(id(row))) for row, _ in done] + failed

    def _state(self, row: _Row) -> sampling.Row:
        if row.state is None:
            row.state = self._sampler.row(row.sequence)
        return row.state

    def _score(self, row: _Row, logits: torch.Tensor) -> None:
        """Of a piece of the prompt, from its first token on. What was scored before an eviction is not scored again."""
        prompt = row.sequence.prompt
        begin = len(row.scores) - 1 - row.computed
        ids = prompt[len(row.scores) : row.computed + len(logits) + 1]
        if begin >= 0 and ids:
            top = row.sequence.sampling.logprobs or 0
            row.scores += self._sampler.score(logits[begin : begin + len(ids)], ids, top)

    def _deliver(self, row: _Row, token: Token | InferenceFailed | None) -> None:
        sequence = row.sequence
        if sequence.cancelled:
            return  # the next plan drops it
        try:
            if isinstance(token, InferenceFailed):
                self._finish(row, token)
                return
            if row.scores:
                scores, row.scores = row.scores, []
                sequence.sink.scored(scores)
            if token is not None:
                row.ids.append(token.id)
                if not sequence.sink.put(token):
                    self._leave_for_good(row)
                    return
        except Exception:  # a sink is the server's; what it raises is a fault of ours and must not end the others
            log.exception("a sink failed")
            self._leave_for_good(row)
            return
        if row.length >= row.final or (row.state is not None and row.state.finish):
            self._finish(row, (row.state and row.state.finish) or "length")

    def _make_room(self, work: list[tuple[_Row, int]], error: OutOfMemory) -> None:
        """Everyone begins again with less at once; who does not fit alone, in the smallest pieces, fails."""
        newcomers = sum(n for _, n in work if n > 1)
        log.warning("out of memory with %d sequences and %d tokens of newcomers: %s", len(work), newcomers, error)
        if newcomers > LEAST_CHUNK:
            self._bounds = replace(self._bounds, chunk=max(LEAST_CHUNK, newcomers // 2))
        elif len(self._running) > 1:
            self._bounds = replace(self._bounds, rows=len(self._running) - 1)
        else:
            row = self._running[0]
            self._finish(row, InferenceFailed(f"the device has no memory for a text of {row.length} tokens"))
        evicted, self._running = self._running, []
        for row in evicted:
            row.slot, row.computed = None, 0
        self._waiting = [*evicted, *self._waiting]
        self._decoder.slots.clear()  # it may be torn: some layers have grown, others not

    def _leave(self, row: _Row) -> None:
        """Free its place in the memory."""
        if row.slot is not None:
            self._decoder.slots.free(row.slot)
        row.slot, row.computed = None, 0

    def _leave_for_good(self, row: _Row) -> None:
        self._leave(row)
        for rows in (self._running, self._waiting):
            if row in rows:
                rows.remove(row)

    def _finish(self, row: _Row, finish: Finish | ModelServeError) -> None:
        self._leave_for_good(row)
        end(row.sequence, finish)

    def _end_all(self, error: ModelServeError) -> None:
        with self._wake:
            sequences = [row.sequence for row in (*self._running, *self._waiting)] + list(self._arrived)
            self._running, self._waiting = [], []
            self._arrived.clear()
        for sequence in sequences:
            end(sequence, error)
