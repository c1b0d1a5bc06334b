"""The engine for models that only transformers' own `generate` can run: encoder-decoders, and decoder-only
architectures that no step of ours fits. Who waits goes together into one `generate`, a batch that nobody joins and
that ends with its last row; tokens reach the sinks step by step, and each row has its own sampling, limits and end.

One thread runs the batches; it alone touches the model and the sinks. `start`, `cancel` and the counts are for any
thread. Knows no text and no protocol.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Collection
from collections.abc import Sequence as Seq
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel, StoppingCriteriaList

from modelserve.backends.base import DeviceLost, Layout, OutOfMemory
from modelserve.backends.engine import EngineLimits, end
from modelserve.backends.faults import computing
from modelserve.backends.forced import Ended, Forced, Interrupted
from modelserve.backends.memory import HostMemory
from modelserve.backends.padding import Bounds, find_layout, next_batch
from modelserve.backends.room import SHARE, free_bytes
from modelserve.backends.sampling import Sampler
from modelserve.errors import InferenceFailed, InvalidRequest, LoadError, NotReady
from modelserve.generation import Sequence, Token

log = logging.getLogger(__name__)

QUIET_S, LONGEST_S = 0.003, 0.02
"""A batch begins when nobody has come for so long, or the first has waited so long: callers that were answered together
come back together, and who comes a moment late waits for a whole batch. A step takes longer."""
_LOST = "the device has failed; this server must be restarted"
_CLOSED = "the server is shutting down"
"""Longest wait for the step that runs when the engine is closed."""


class StaticEngine:
    """A model behind `generate`."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        end_ids: Collection[int],
        context_length: int,
        max_running: int,
        max_tokens: int | None = None,
        kv_bytes: int | None = None,
        threads: int | None = None,
        sampler: Sampler | None = None,
    ) -> None:
        """model: on its device. context_length: of prompt and answer together, or of either with an encoder.

        max_tokens: a batch's rows times its longest prompt and answer; what kv_bytes hold when not given, or a share of
        the free memory. Raises LoadError for a model that cannot generate.
        """
        self.end_ids = end_ids
        self.lost = False
        self._model = model.eval()
        self._device: torch.device = model.device
        self._threads = threads or torch.get_num_threads()
        self._encoder = bool(model.config.is_encoder_decoder)
        own = model.generation_config
        self._last = _first(own.forced_eos_token_id)
        self._least = (own.min_new_tokens or 0, own.min_length or 0)
        self._pad = _first(own.pad_token_id, own.eos_token_id) or 0
        lacks = {"prompt_logprobs"} if self._encoder else set()
        if own.forced_bos_token_id is not None:
            lacks.add("grammar")  # none begins with it
        self.limits = EngineLimits(context_length, max_running, self._encoder, frozenset(lacks))
        self._dtype: torch.dtype = model.dtype
        try:
            vocabulary, layout, self._reason = self._look_at_it(own)
        except OutOfMemory as error:
            raise LoadError(f"two short texts do not fit the memory of {self._device}: {error}") from error
        self._sampler = sampler or Sampler(vocabulary, self._device)
        self._bounds = Bounds(layout, max_running, max_tokens or self._room(kv_bytes))
        self._memory = HostMemory()
        self._memory.hand_back()
        log.info("static batches, %s: %s", layout, self._reason)
        self._wake = threading.Condition()
        self._waiting: list[tuple[float, Sequence]] = []
        """With their times of arrival."""
        self._rows: Forced | None = None
        self._began = 0.0
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="modelserve-engine", daemon=True)
        self._thread.start()

    def start(self, sequence: Sequence) -> None:
        with self._wake:
            closed, lost = self._closed, self.lost
            if not closed and not lost:
                self._waiting.append((time.monotonic(), sequence))
                self._wake.notify()
        if closed or lost:
            end(sequence, NotReady(_CLOSED) if closed else InferenceFailed(_LOST))

    def cancel(self, sequence: Sequence) -> None:
        sequence.cancelled = True
        with self._wake:
            self._waiting = [one for one in self._waiting if one[1] is not sequence]

    def running(self) -> int:
        rows = self._rows
        return rows.running() if rows is not None else 0

    def waiting(self) -> int:
        return len(self._waiting)

    def stuck_s(self) -> float:
        began, rows = self._began, self._rows
        return time.monotonic() - max(began, rows.step_began if rows is not None else 0.0) if began else 0.0

    def close(self) -> None:
        with self._wake:
            self._closed = True
            if self._rows is not None:
                self._rows.interrupted = True
            self._wake.notify()

    def join(self, timeout_s: float) -> bool:
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def describe(self) -> dict[str, Any]:
        return {
            "device": torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu",
            "dtype": str(self._dtype).removeprefix("torch."),
            "max_running": self.limits.max_running,
            "batches": "static",
            "layout": self._bounds.layout,
            "layout_reason": self._reason,
            "batch_tokens": self._bounds.tokens,
        }

    def _look_at_it(self, own: GenerationConfig) -> tuple[int, Layout, str]:
        """Columns of its logits, how texts may share a batch, and why not better."""
        config = self._model.config.get_text_config()
        special = (own.pad_token_id, own.bos_token_id, *self.end_ids, own.decoder_start_token_id)
        avoid = {id for id in special if isinstance(id, int)}
        longest = max(1, self.limits.context_length - (0 if self._encoder else _Recorder.STEPS))
        self._model.generation_config = _plain(own, self._pad, _BEGINNING)
        with computing(self._device):
            layout, reason = find_layout(self._probe, int(config.vocab_size), avoid, longest, self._dtype)
            vocabulary = self._probe([[0]]).shape[-1]
        self._model.generation_config = _plain(own, self._pad, _BEGINNING + _WORDS)
        return vocabulary, layout, reason

    def _probe(self, prompts: Seq[Seq[int]]) -> torch.Tensor:
        recorder = _Recorder()
        steps = min(_Recorder.STEPS, self.limits.context_length)
        self._generate(prompts, steps, logits_processor=LogitsProcessorList([recorder]))
        return torch.stack(recorder.logits, 1)

    def _room(self, kv_bytes: int | None) -> int:
        """Tokens whose keys and values fit there, or a share of the free memory: at most what all rows may need, at
        least one row's longest."""
        config = self._model.config.get_text_config(decoder=True)
        layers = getattr(config, "num_hidden_layers", None) or config.decoder_layers
        per_token = 2 * int(layers) * int(config.hidden_size) * self._dtype.itemsize
        free = int(SHARE[self._device.type] * free_bytes(self._device)) if kv_bytes is None else kv_bytes
        longest = self.limits.context_length * (2 if self._encoder else 1)
        return max(longest, min(free // per_token, self.limits.max_running * longest))

    def _run(self) -> None:
        if self._device.type == "cpu":
            torch.set_num_threads(self._threads)
        try:
            while not self.lost and (batch := self._take()):
                self._began = time.monotonic()
                try:
                    self._answer([sequence for sequence in batch if self._begins(sequence)])
                finally:
                    self._began = 0.0
        except BaseException:  # a fault of ours; whoever waits must not wait for ever
            self._lose()
        with self._wake:
            left, self._waiting = [sequence for _, sequence in self._waiting], []
        for sequence in left:
            end(sequence, InferenceFailed(_LOST) if self.lost else NotReady(_CLOSED))
        del self._model
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _lose(self) -> None:
        log.exception("the engine has failed; liveness turns false")
        with self._wake:
            self.lost = True

    def _take(self) -> list[Sequence]:
        """The next batch, when there is one; empty when the engine is closed."""
        with self._wake:
            while not self._closed and (pause_s := self._pause_s()) > 0:
                self._wake.wait(None if pause_s == math.inf else pause_s)
            if self._closed:
                return []
            sizes = [(len(sequence.prompt), sequence.max_tokens) for _, sequence in self._waiting]
            chosen = set(next_batch(sizes, self._bounds))
            batch = [sequence for i, (_, sequence) in enumerate(self._waiting) if i in chosen]
            self._waiting = [one for i, one in enumerate(self._waiting) if i not in chosen]
        return batch

    def _pause_s(self) -> float:
        """Until a batch should begin."""
        if not self._waiting:
            return math.inf
        if len(self._waiting) >= self.limits.max_running or self._bounds.layout == "single":
            return 0.0
        return min(self._waiting[0][0] + LONGEST_S, self._waiting[-1][0] + QUIET_S) - time.monotonic()

    def _begins(self, sequence: Sequence) -> bool:
        """Check what it asks for, and score its prompt where it wants that; false when that was its end."""
        prompt, answer = len(sequence.prompt), sequence.max_tokens
        if max(prompt, answer) > self.limits.context_length or (
            not self._encoder and prompt + answer > self.limits.context_length
        ):
            message = f"the prompt's {prompt} tokens and up to {answer} more are over {self.limits.context_length}"
            end(sequence, InvalidRequest(message, param="max_tokens"))
            return False
        if self.lost:
            end(sequence, InferenceFailed(_LOST))
            return False
        if not sequence.sampling.prompt_logprobs:
            return True
        try:
            with computing(self._device):
                logits = self._model(input_ids=self._tensor([sequence.prompt])).logits[0]
                scores = self._sampler.score(logits[:-1], sequence.prompt[1:], sequence.sampling.logprobs or 0)
        except DeviceLost:
            self._lose()
            end(sequence, InferenceFailed(_LOST))
            return False
        except OutOfMemory as error:
            log.warning("out of memory when scoring %d tokens: %s", prompt, error)
            end(sequence, InferenceFailed(f"the device has no memory to score a prompt of {prompt} tokens"))
            return False
        except InferenceFailed as error:
            end(sequence, error)
            return False
        except BaseException:  # custom model code may raise anything; this thread must outlive it
            log.exception("scoring a prompt of %d tokens failed", prompt)
            end(sequence, InferenceFailed("the model failed on this input"))
            return False
        if not sequence.cancelled:
            sequence.sink.scored([Token(sequence.prompt[0], math.nan), *scores])
        if answer == 0:
            end(sequence, "length")
        return answer > 0

    def _answer(self, sequences: Seq[Sequence]) -> None:
        """One `generate`; when it fails, smaller ones of those who have heard nothing, so that only who must fails."""
        sequences = [sequence for sequence in sequences if not sequence.cancelled]
        if not sequences:
            return
        rows = Forced(sequences, self._sampler, pad=self._pad, last=self._last, least=self._least_of)
        with self._wake:
            self._rows = rows
            rows.interrupted = self._closed
        failed = InferenceFailed("the model failed on this input")
        try:
            with computing(self._device):
                self._generate(
                    [sequence.prompt for sequence in sequences],
                    max(sequence.max_tokens for sequence in sequences),
                    logits_processor=LogitsProcessorList([rows]),
                    stopping_criteria=StoppingCriteriaList([Ended(rows)]),
                )
        except Interrupted:
            rows.end_all(NotReady(_CLOSED))
        except DeviceLost:
            self._lose()
        except OutOfMemory as error:
            longest = max(len(sequence.prompt) + sequence.max_tokens for sequence in sequences)
            log.warning("out of memory with %d sequences of up to %d tokens: %s", len(sequences), longest, error)
            failed = InferenceFailed(f"the device has no memory for a text of {longest} tokens")
        except BaseException:  # custom model code may raise anything; this thread must outlive it
            log.exception("generating %d texts together failed", len(sequences))
        finally:
            self._rows = None
            self._memory.after_pass(sum(len(sequence.prompt) for sequence in sequences) + rows.computed)
        if self.lost:
            rows.end_all(InferenceFailed(_LOST))
        again = [sequence for sequence, heard in rows.left() if not heard] if len(sequences) > 1 else []
        rows.end_all(failed, but=again)
        middle = (len(again) + 1) // 2
        for half in (again[:middle], again[middle:]):
            if self.lost:
                for sequence in half:
                    end(sequence, InferenceFailed(_LOST))
            else:
                self._answer(half)

    def _least_of(self, prompt: int) -> int:
        """Tokens that the model's own config wants of a text: its `min_length` counts what the decoder begins with."""
        new, whole = self._least
        return max(new, whole - (1 if self._encoder else prompt))

    def _generate(self, prompts: Seq[Seq[int]], steps: int, **hooks: Any) -> None:
        """Greedily as far as `generate` knows: the hooks choose."""
        longest = max(map(len, prompts))
        ids, mask = [], []
        for prompt in prompts:
            padding = longest - len(prompt)
            # An encoder's texts begin at its first position; a decoder's end where the answer begins.
            sides = (0, padding) if self._encoder else (padding, 0)
            ids.append([self._pad] * sides[0] + list(prompt) + [self._pad] * sides[1])
            mask.append([0] * sides[0] + [1] * len(prompt) + [0] * sides[1])
        self._model.generate(self._tensor(ids), attention_mask=self._tensor(mask), max_new_tokens=steps, **hooks)

    def _tensor(self, rows: Seq[Seq[int]]) -> torch.Tensor:
        return torch.tensor(rows, device=self._device)


class _Recorder(LogitsProcessor):  # type: ignore[misc]
    """Keeps the logits of every step, and has the same tokens follow whatever they are."""

    STEPS = 5

    def __init__(self) -> None:
        self.logits: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        self.logits.append(scores.clone())
        scores.fill_(-math.inf)
        scores[:, (7 * len(self.logits)) % scores.shape[1]] = 0.0
        return scores


_BEGINNING = ("bos_token_id", "decoder_start_token_id", "use_cache")
_WORDS = (
    "bad_words_ids",
    "begin_suppress_tokens",
    "encoder_no_repeat_ngram_size",
    "encoder_repetition_penalty",
    "forced_bos_token_id",
    "no_repeat_ngram_size",
    "sequence_bias",
    "suppress_tokens",
)
"""What a model's own generation config says of its texts, and no request does."""


def _plain(own: GenerationConfig, pad: int, names: Seq[str]) -> GenerationConfig:
    """Some of the model's own, without what a request says or this engine does: how to choose, and when to end."""
    values = {name: value for name in names if (value := getattr(own, name, None)) is not None}
    return GenerationConfig(**values, pad_token_id=pad, do_sample=False, num_beams=1)


def _first(*ids: int | list[int] | None) -> int | None:
    flat = [id for one in ids for id in (one if isinstance(one, list) else [one])]
    return next((id for id in flat if id is not None), None)
