"""Forward passes on another server: texts were tokenised here, tensors go there, and what comes back is reduced here.

Knows no protocol (a Predictor speaks it) and no queue; `forward` runs in backend threads, each with one request in
flight. No weights are here.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from modelserve.backends.base import Limits, Reduce
from modelserve.backends.batch import WholeStates
from modelserve.backends.remote_model import Head, Plan, Predictor, RemoteModel, listed, plan
from modelserve.backends.remote_watch import Watch
from modelserve.datatypes import DTYPES
from modelserve.errors import InvalidRequest, LoadError, Overloaded, PredictorDown, PredictorFailed, RequestTimeout
from modelserve.types import Array, Caller, Encoding, Output, Tensor

log = logging.getLogger(__name__)

BATCH_TOKENS = 16384
"""Token budget of one request where --max_batch_tokens is not given, as on a GPU of our own."""
_ANSWER_BYTES = 256 * 1024 * 1024
"""Most of one answer: 2,200 tokens with BERT's vocabulary, which travels as a whole."""
_MOST_STREAMS = 16
_STREAMS = 4
"""Requests in flight where the remote does not say how many instances of the model it has."""
_SINGLE_STREAMS = 8
"""And where each has one text."""
_MOST_IDS = 8
"""Callers whose ids a shared request carries."""


class RemoteBackend:
    """A model on another server."""

    def __init__(
        self,
        predictor: Predictor,
        model: RemoteModel | None,
        *,
        head: Head,
        width: int,
        longest: int,
        pad_id: int,
        names: Mapping[str, str],
        usual: Sequence[str],
        max_batch_size: int | None = None,
        max_batch_tokens: int | None = None,
        timeout_s: float = 600.0,
        retries: int = 0,
        health_check: bool = False,
        about: Mapping[str, Any] | None = None,
        observe: Callable[[str, float], None] = lambda outcome, seconds: None,
    ) -> None:
        """longest: most tokens of a text. about: where it is, for /info. observe: told ok, down, overloaded, timeout
        or failed, and the seconds, of each request. The rest as `plan` has it. Raises LoadError."""
        self._predictor = predictor
        self._head: Head = head
        self._width = width
        self._longest = longest
        self._pad_id = pad_id
        self._names = names
        self._usual = usual
        self._most = max_batch_size
        self._max_batch_tokens = max_batch_tokens
        self._timeout_s = timeout_s
        self._retries = retries
        self._about = dict(about or {})
        self._observe = observe
        self._model = model
        self._plan = self._planned(model)
        self._streams = _streams(model, self._plan)
        self.limits = self._limits()
        self._watch = Watch(self._look, always=health_check)

    def forward(self, encodings: Sequence[Encoding], reduce: Reduce, *, alone: bool = True) -> list[Output]:
        """Raises PredictorDown, Overloaded, RequestTimeout, PredictorFailed."""
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i]))
        batch = [encodings[i] for i in order]
        answer = torch.from_numpy(self._answer(batch))
        with torch.inference_mode():
            reduced = reduce(WholeStates(answer, [len(one) for one in batch], bare=self._head == "none"), batch)
        outputs: list[Output] = [None] * len(order)
        for i, output in zip(order, reduced, strict=True):
            outputs[i] = output
        return outputs

    def trouble(self) -> str:
        """Why nothing can be computed now; "" when all is well."""
        return self._watch.trouble

    def close(self) -> None:
        self._watch.close()
        self._predictor.close()

    def describe(self) -> dict[str, Any]:
        return {
            "device": "remote",
            **self._about,
            "dtype": self._plan.output.datatype,
            "layout": self._plan.layout,
            "max_batch_size": self._plan.max_batch_size,
            "requests_in_flight": self._streams,
            "remote_server": self._model.server if self._model else "",
            "remote_platform": self._model.platform if self._model else "",
            "remote_inputs": listed([spec for _, spec in self._plan.sent]),
            "remote_output": listed([self._plan.output]),
            "versions": {"torch": str(torch.__version__)},
        }

    def _planned(self, model: RemoteModel | None) -> Plan:
        found = plan(model, self._head, self._width, names=self._names, usual=self._usual, most=self._most)
        if found.length is not None and found.length < self._longest:
            raise LoadError(
                f"the remote predictor takes {found.length} tokens of a text, not {self._longest}; "
                f"give --max_length {found.length}"
            )
        return found

    def _limits(self) -> Limits:
        per_token = self._width * 4 if self._head != "sequence" else 4
        budget = min(BATCH_TOKENS, max(self._longest, _ANSWER_BYTES // per_token))
        return Limits(
            layout=self._plan.layout,
            max_batch_tokens=self._max_batch_tokens or budget,
            streams=self._streams,
            max_batch_size=self._plan.max_batch_size,
            bounded=True,
        )

    def _look(self) -> None:
        """In the watch's thread: whether it is well, and still the model that it was. Raises ModelServeError."""
        model = self._predictor.describe()
        self._plan, self._model = self._planned(model), model
        self.limits = self._limits()

    def _answer(self, batch: Sequence[Encoding]) -> Array:
        """What the network says of them: float32 [B, L, C], or [B, C] of a sequence head."""
        asked, longest = self._plan, len(batch[-1])
        if not asked.types and any(any(one.type_ids or ()) for one in batch):
            raise InvalidRequest(
                "the remote predictor takes no token_type_ids, which tell the texts of a pair apart; send single texts"
            )
        if len(batch) > asked.max_batch_size or (asked.layout == "equal" and len(batch[0]) < longest):
            # The batch was formed for the model that was there before. Smaller ones are tried next.
            raise PredictorFailed("the remote predictor has another model by now", of_input=True)
        columns = asked.length or longest
        rows = asked.rows or len(batch)
        tensors = _tensors(asked, [*batch, *[batch[-1]] * (rows - len(batch))], columns, self._pad_id)
        shape = (columns, self._width) if self._head != "sequence" else (self._width,)
        wanted = shape if asked.single else (rows, *shape)
        answer = self._ask(asked, tensors, prod(wanted), _caller(batch))
        if answer.shape != wanted or not isinstance(answer.data, np.ndarray):
            self._watch.doubt()
            raise PredictorFailed(
                f"the remote predictor answered {answer.name} {answer.datatype} {list(answer.shape)}, and "
                f"{list(wanted)} was asked for"
            )
        values = _float32(answer.datatype, answer.data).reshape(rows, *shape)[: len(batch)]
        return np.ascontiguousarray(values[:, :longest]) if self._head != "sequence" else values

    def _ask(self, asked: Plan, tensors: Sequence[Tensor], numbers: int, caller: Caller) -> Tensor:
        """With the further tries that are allowed, all before one deadline."""
        deadline = time.monotonic() + self._timeout_s
        tries_left = self._retries
        pause = 0.1
        while True:
            try:
                return self._ask_once(asked, tensors, numbers, caller, max(0.001, deadline - time.monotonic()))
            except (PredictorDown, Overloaded) as error:
                begun = isinstance(error, PredictorDown) and error.begun
                if begun or not tries_left or time.monotonic() + pause >= deadline:
                    raise
                tries_left -= 1
            if self._watch.wait_closed(pause * random.uniform(0.5, 1.0)):
                raise PredictorDown("the server is shutting down")
            pause = min(2.0, 2 * pause)

    def _ask_once(
        self, asked: Plan, tensors: Sequence[Tensor], numbers: int, caller: Caller, timeout_s: float
    ) -> Tensor:
        started = time.monotonic()
        outcome = "failed"
        self._watch.begin()
        try:
            answer = self._predictor.infer(tensors, asked.output.name, numbers, caller, timeout_s)
            outcome = "ok"
            return answer
        except Overloaded:
            outcome = "overloaded"
            raise
        except RequestTimeout:
            outcome = "timeout"
            self._watch.doubt()
            raise
        except (PredictorDown, PredictorFailed) as error:
            outcome = "down" if isinstance(error, PredictorDown) else "failed"
            log.warning("%s (%d texts)", error.message, tensors[0].shape[0] if len(tensors[0].shape) > 1 else 1)
            self._watch.doubt()
            raise
        finally:
            self._watch.end()
            self._observe(outcome, time.monotonic() - started)


def _streams(model: RemoteModel | None, asked: Plan) -> int:
    """Requests in flight: one more than can compute, so that the next one is there when an instance is free."""
    instances = model.instances if model else None
    streams = _STREAMS if instances is None else min(_MOST_STREAMS, max(2, instances + 1))
    return max(_SINGLE_STREAMS, streams) if asked.layout == "single" else streams


def _tensors(asked: Plan, batch: Sequence[Encoding], columns: int, pad_id: int) -> list[Tensor]:
    """The texts as the remote wants them, filled up to so many columns."""
    lengths = np.fromiter(map(len, batch), dtype=np.int64, count=len(batch))
    tensors = []
    for ours, spec in asked.sent:
        dtype = DTYPES[spec.datatype]
        if ours == "attention_mask":
            values = (np.arange(columns) < lengths[:, None]).astype(dtype)
        else:
            values = np.full((len(batch), columns), pad_id if ours == "input_ids" else 0, dtype=dtype)
            for row, encoding in enumerate(batch):
                said = encoding.ids if ours == "input_ids" else encoding.type_ids
                if said is not None:
                    values[row, : len(encoding)] = said
        values = values[0] if asked.single else values
        tensors.append(Tensor(spec.name, spec.datatype, values.shape, values))
    return tensors


def _caller(batch: Sequence[Encoding]) -> Caller:
    """Whose request it is. One that several share has their ids, and continues the first one's trace."""
    callers = list(dict.fromkeys(encoding.caller for encoding in batch if encoding.caller))
    if len(callers) < 2:
        return callers[0] if callers else Caller()
    ids = dict.fromkeys(one.request_id for one in callers if one.request_id)
    traced = next((one for one in callers if one.traceparent), Caller())
    return Caller(",".join(list(ids)[:_MOST_IDS]), traced.traceparent, traced.tracestate)


def _float32(datatype: str, values: Array) -> Array:
    if datatype == "BF16":
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)
