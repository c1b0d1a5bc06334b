"""The engine of our own: the texts of transformers' `generate`, whoever joins or leaves; its faults; its memory."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from typing import Any

import pytest
import torch

from modelserve.backends.base import DeviceLost, OutOfMemory
from modelserve.backends.decoder import Decoder, Piece
from modelserve.errors import InferenceFailed, InvalidRequest, ModelServeError, NotReady
from modelserve.generation import Finish, Sampling, Sequence, Token
from modelserve.runtime.iteration import IterationEngine
from tests.backends.causal import VOCABULARY, causal, greedy

_BOUND_S = 60.0


class _Sink:
    """Keeps what it hears; `stop_after` tokens it has enough."""

    def __init__(self, stop_after: int | None = None, heard: Callable[[_Sink], None] = lambda sink: None) -> None:
        self.tokens: list[Token] = []
        self.scores: list[Token] | None = None
        self.finish: Finish | ModelServeError | None = None
        self.ended = threading.Event()
        self.calls: list[str] = []
        self._stop_after = stop_after
        self._heard = heard

    def scored(self, tokens: Seq[Token]) -> None:
        self.calls.append("scored")
        self.scores = list(tokens)

    def put(self, token: Token) -> bool:
        self.calls.append("put")
        self.tokens.append(token)
        self._heard(self)
        enough = len(self.tokens) == self._stop_after
        if enough:
            self.ended.set()
        return not enough

    def end(self, finish: Finish | ModelServeError) -> None:
        self.calls.append("end")
        self.finish = finish
        self.ended.set()

    @property
    def ids(self) -> list[int]:
        assert self.ended.wait(_BOUND_S)
        return [token.id for token in self.tokens]


@contextmanager
def _engine(model: Any, *, max_running: int = 8, context: int = 512, **kwargs: Any) -> Iterator[IterationEngine]:
    engine = IterationEngine(
        Decoder(model), end_ids=(2,), context_length=context, max_running=max_running, threads=1, **kwargs
    )
    try:
        yield engine
    finally:
        engine.close()
        assert engine.join(60)


def _sequence(prompt: list[int], max_tokens: int, sink: _Sink | None = None, **sampling: Any) -> Sequence:
    return Sequence(
        prompt=prompt,
        sampling=Sampling(**{"temperature": 0.0, **sampling}),
        max_tokens=max_tokens,
        end_ids=frozenset({2}),
        seed=0,
        sink=sink or _Sink(),
    )


def _prompts(count: int, longest: int = 40) -> list[list[int]]:
    rng = random.Random(1)
    return [[rng.randrange(3, VOCABULARY) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def _sink(sequence: Sequence) -> _Sink:
    assert isinstance(sequence.sink, _Sink)
    return sequence.sink


def _poll(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _BOUND_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


SLOW = ("gpt2", "gpt_oss", "llama-tied", "qwen2", "qwen3", "mistral", "phi", "phi3", "gemma", "gemma2")


@pytest.mark.parametrize(
    "name",
    ["llama", "gemma3", *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)],
)
def test_greedy_texts_are_those_of_generate(name: str) -> None:
    prompts = _prompts(10)
    limits = [random.Random(i).randint(1, 30) for i in range(len(prompts))]
    reference = causal(name)
    expected = [greedy(reference, prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
    assert len({tuple(ids) for ids in expected}) > 5
    with _engine(causal(name), max_running=4, chunk=16) as engine:
        sequences = [_sequence(prompt, limit) for prompt, limit in zip(prompts, limits, strict=True)]
        for sequence in sequences:
            engine.start(sequence)
        for sequence, ids in zip(sequences, expected, strict=True):
            assert _sink(sequence).ids == ids
            assert _sink(sequence).finish == ("stop" if ids[-1] == 2 else "length")
        _poll(lambda: engine.running() == engine.waiting() == 0)


def test_little_memory_gives_the_same_texts() -> None:
    """Whoever is evicted waits, is computed again and goes on where it was: no token twice, none lost."""
    prompts = _prompts(6)
    reference = causal("llama")
    expected = [greedy(reference, prompt, 60) for prompt in prompts]
    with _engine(causal("llama"), max_running=6, kv_tokens=220) as engine:
        sequences = [_sequence(prompt, 60) for prompt in prompts]
        for sequence in sequences:
            engine.start(sequence)
        assert [_sink(sequence).ids for sequence in sequences] == expected


def test_what_never_fits_is_refused_with_both_numbers() -> None:
    with _engine(causal("llama"), kv_tokens=100) as engine:
        assert engine.limits.context_length == 100
        sequence = _sequence([5] * 90, 11)
        engine.start(sequence)
        assert _sink(sequence).ids == []
        error = _sink(sequence).finish
        assert isinstance(error, InvalidRequest)
        assert "90 tokens and up to 11 more" in error.message
        assert "100" in error.message
        fits = _sequence([5] * 90, 10)
        engine.start(fits)
        assert len(_sink(fits).ids) > 0


def test_a_sink_that_has_enough_hears_no_more() -> None:
    with _engine(causal("llama")) as engine:
        sequence = _sequence([5, 6, 7], 400, _Sink(stop_after=3), ignore_eos=True)
        engine.start(sequence)
        assert len(_sink(sequence).ids) == 3
        _poll(lambda: engine.running() == 0)
        assert _sink(sequence).calls == ["put"] * 3


def test_a_cancelled_sequence_leaves_and_its_place_is_free() -> None:
    with _engine(causal("llama"), max_running=1, context=512) as engine:
        long = _sequence([5, 6, 7], 500)
        long.end_ids = frozenset()
        waits = _sequence([8, 9], 3)
        engine.start(long)
        engine.start(waits)
        _poll(lambda: len(_sink(long).tokens) > 3)
        engine.cancel(long)
        assert _sink(waits).ended.wait(_BOUND_S)
        heard = len(_sink(long).calls)
        assert heard < 500
        assert "end" not in _sink(long).calls
        _poll(lambda: engine.running() == 0)
        assert len(_sink(long).calls) == heard


def test_prompt_logprobs_are_those_of_the_model() -> None:
    prompt = _prompts(1, 40)[0] + [9] * 120  # over one scored chunk
    model = causal("llama")
    with torch.inference_mode():
        wanted = model(torch.tensor([prompt])).logits[0].log_softmax(-1)
    with _engine(causal("llama")) as engine:
        sequence = _sequence(prompt, 2, prompt_logprobs=True, logprobs=2)
        only = _sequence(prompt, 0, prompt_logprobs=True)
        one = _sequence([7], 1, prompt_logprobs=True)
        for each in (sequence, only, one):
            engine.start(each)
        assert len(_sink(sequence).ids) >= 1
        assert _sink(only).ids == []
        assert _sink(only).finish == "length"
        assert _sink(only).calls == ["scored", "end"]
        assert len(_sink(one).ids) == 1
        assert len(_sink(one).scores or ()) == 1
    for sink in (_sink(sequence), _sink(only)):
        assert sink.calls[0] == "scored"
        assert sink.scores is not None
        assert [token.id for token in sink.scores] == prompt
        assert math.isnan(sink.scores[0].logprob)
        for i, token in enumerate(sink.scores[1:]):
            assert token.logprob == pytest.approx(wanted[i, token.id].item(), abs=1e-3)
    scores = _sink(sequence).scores
    assert scores is not None
    assert scores[5].top[0][0] == wanted[4].argmax().item()
    assert len(scores[5].top) == 2


class _Fault:
    """Raises `error` in place of the steps for which `when` holds, as often as `times`."""

    def __init__(self, decoder: Decoder, error: BaseException, when: Callable[[Seq[Piece]], bool], times: int) -> None:
        self._step, self._error, self._when, self.left = decoder.step, error, when, times

    def __call__(self, pieces: Seq[Piece]) -> torch.Tensor:
        if self.left and self._when(pieces):
            self.left -= 1
            raise self._error
        return self._step(pieces)


@contextmanager
def _faulty(
    error: BaseException, when: Callable[[Seq[Piece]], bool], times: int = 1
) -> Iterator[tuple[IterationEngine, _Fault]]:
    decoder = Decoder(causal("llama"))
    fault = _Fault(decoder, error, when, times)
    decoder.step = fault  # type: ignore[method-assign]
    engine = IterationEngine(decoder, end_ids=(2,), context_length=512, max_running=4, threads=1)
    try:
        yield engine, fault
    finally:
        engine.close()
        assert engine.join(60)


def _has(token: int) -> Callable[[Seq[Piece]], bool]:
    return lambda pieces: any(token in piece.ids for piece in pieces)


def test_a_step_that_fails_ends_those_in_it_and_the_engine_goes_on() -> None:
    with _faulty(ValueError("no"), _has(77)) as (engine, _):
        bad, good = _sequence([77], 5), _sequence([5, 6, 7], 5)
        engine.start(bad)
        assert _sink(bad).ids == []
        assert isinstance(_sink(bad).finish, InferenceFailed)
        engine.start(good)
        assert _sink(good).ids == greedy(causal("llama"), [5, 6, 7], 5)
        assert not engine.lost
        assert engine.running() == 0


def test_too_little_device_memory_makes_smaller_steps_of_the_same_texts() -> None:
    prompts = _prompts(5)
    expected = [greedy(causal("llama"), prompt, 12) for prompt in prompts]
    crowded = lambda pieces: len(pieces) > 2 or sum(len(piece.ids) for piece in pieces) > 10  # noqa: E731
    with _faulty(OutOfMemory("no"), crowded, times=-1) as (engine, _):
        sequences = [_sequence(prompt, 12) for prompt in prompts]
        for sequence in sequences:
            engine.start(sequence)
        assert [_sink(sequence).ids for sequence in sequences] == expected


def test_no_memory_for_one_alone_is_its_error() -> None:
    with _faulty(OutOfMemory("no"), lambda pieces: True, times=-1) as (engine, fault):
        sequence = _sequence(_prompts(1)[0] * 3, 12)
        engine.start(sequence)
        assert _sink(sequence).ids == []
        error = _sink(sequence).finish
        assert isinstance(error, InferenceFailed)
        assert "no memory" in error.message
        fault.left = 0
        after = _sequence([5, 6], 3)
        engine.start(after)
        assert len(_sink(after).ids) > 0


def test_a_lost_device_ends_everyone_and_later_ones_at_once() -> None:
    with _faulty(DeviceLost("gone"), _has(77)) as (engine, _):
        first, second = _sequence([77, 8], 50), _sequence([5], 50)
        engine.start(first)
        engine.start(second)
        for sequence in (first, second):
            assert _sink(sequence).ended.wait(_BOUND_S)
        assert isinstance(_sink(first).finish, InferenceFailed)
        _poll(lambda: engine.lost)
        late = _sequence([5], 5)
        engine.start(late)
        assert isinstance(_sink(late).finish, InferenceFailed)


def test_a_sink_that_raises_is_dropped_alone() -> None:
    def broken(sink: _Sink) -> None:
        raise ValueError("no")

    with _engine(causal("llama")) as engine:
        bad, good = _sequence([5, 6], 20, _Sink(heard=broken)), _sequence([5, 6, 7], 20)
        engine.start(bad)
        engine.start(good)
        assert _sink(good).ids == greedy(causal("llama"), [5, 6, 7], 20)
        _poll(lambda: engine.running() == 0)
        assert _sink(bad).calls == ["put"]


def test_close_ends_who_runs_and_who_waits() -> None:
    with _engine(causal("llama"), max_running=1) as engine:
        runs, waits = _sequence([5], 500), _sequence([6], 5)
        runs.end_ids = frozenset()
        engine.start(runs)
        engine.start(waits)
        _poll(lambda: len(_sink(runs).tokens) > 2)
        assert engine.running() == 1
        assert engine.waiting() == 1
        engine.close()
        assert engine.join(60)
        assert isinstance(_sink(runs).finish, NotReady)
        assert isinstance(_sink(waits).finish, NotReady)
        late = _sequence([5], 5)
        engine.start(late)
        assert isinstance(_sink(late).finish, NotReady)


def test_a_step_that_takes_long_is_seen() -> None:
    go = threading.Event()

    def held(pieces: Seq[Piece]) -> bool:
        assert go.wait(_BOUND_S)
        return False

    with _faulty(ValueError("never"), held) as (engine, _):
        assert engine.stuck_s() == 0
        sequence = _sequence([5], 1)
        engine.start(sequence)
        try:
            _poll(lambda: engine.stuck_s() > 0.02)
        finally:
            go.set()
        assert len(_sink(sequence).ids) == 1
        _poll(lambda: engine.stuck_s() == 0)


@pytest.mark.slow
def test_many_callers_who_join_cancel_and_stop() -> None:
    """Every text that is finished is that of `generate`; nothing is left."""
    rng = random.Random(3)
    prompts = _prompts(24, 80)
    reference = causal("qwen3")
    expected = [greedy(reference, prompt, 40) for prompt in prompts]
    with _engine(causal("qwen3"), max_running=8, kv_tokens=700, chunk=32) as engine:
        sequences: list[tuple[int, Sequence, int | None]] = []
        for _ in range(120):
            which = rng.randrange(len(prompts))
            stop = rng.choice([None, None, 1, 5])
            sequence = _sequence(prompts[which], 40, _Sink(stop_after=stop))
            sequences.append((which, sequence, stop))
            engine.start(sequence)
            if rng.random() < 0.2:
                engine.cancel(rng.choice(sequences)[1])
            time.sleep(rng.random() * 0.02)
        for which, sequence, stop in sequences:
            if not sequence.cancelled:
                assert _sink(sequence).ids == expected[which][:stop]
            else:
                heard = [token.id for token in _sink(sequence).tokens]
                assert heard == expected[which][: len(heard)]
        _poll(lambda: engine.running() == engine.waiting() == 0)
