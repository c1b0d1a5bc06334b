"""Transformers on PyTorch, CPU or CUDA: loads the weights with the head that the task needs, finds out how texts may
share a forward pass, and runs the passes. Knows no queue and no protocol; `forward` runs in a backend thread.
"""

from __future__ import annotations

import gc
import linecache
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from modelserve.backends import layout as layouts
from modelserve.backends.base import Limits, OutOfMemory, Reduce
from modelserve.backends.batch import run
from modelserve.backends.cores import cores
from modelserve.backends.faults import computing
from modelserve.backends.memory import HostMemory
from modelserve.backends.network import Network
from modelserve.backends.pretrained import DTYPES, dtype_name, find_device, load_pretrained
from modelserve.errors import LoadError
from modelserve.types import Encoding, Output

log = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Token budget of one pass where --max_batch_tokens is not given. CPU: throughput is flat from 512 tokens on and a
shorter pass answers sooner (docs/benchmarks.md). CUDA: what keeps the matrix units of a large GPU busy."""


class HuggingFaceBackend:
    """A transformers model, ready to run."""

    def __init__(
        self,
        path: Path,
        *,
        auto_class: str,
        head: layouts.Head,
        max_length: int,
        device: str = "auto",
        dtype: str | None = None,
        threads: int | None = None,
        max_batch_tokens: int | None = None,
        trust_remote_code: bool = False,
        allow_pickle: bool = False,
        missing: Callable[[Sequence[str]], str | None] = lambda keys: None,
        progress: Callable[[float], None] = lambda fraction: None,
    ) -> None:
        """Load `path` as transformers' `auto_class`; `missing` says whether keys that the file lacks matter.

        Raises LoadError when the device is not there, the weights do not fit the task or cannot be read.
        """
        linecache.clearcache()  # what transformers has read of its own sources, for its docstrings
        gc.freeze()  # the imports stay: what is looked for after the load is what the load has left, 0.2 s sooner
        self.device = find_device(device)
        dtype = dtype_name(dtype, self.device)
        self.threads = threads or cores()
        self._memory = HostMemory()
        if self.device.type == "cpu":
            torch.set_num_threads(self.threads)
        whole = load_pretrained(path, auto_class, dtype, trust_remote_code, allow_pickle, missing).to(self.device)
        progress(0.5)
        self.network = Network(whole)
        self.max_length = max_length
        known = self.network.positions
        if known is not None and known < max_length:
            raise LoadError(
                f"the model has positions for {known} tokens, not for {max_length}; give --max_length {known}"
            )
        varlen = self.device.type == "cuda" and DTYPES[dtype] is not torch.float32
        with computing(self.device):
            end = getattr(whole.config, "eos_token_id", None)
            texts = layouts.samples(
                whole.config.vocab_size, max_length, _special_ids(whole.config), end if isinstance(end, int) else None
            )
            self.verdict = layouts.find(self.network, head, texts, varlen=varlen)
            one_at_a_time = self.device.type != "cpu" or self.network.keeps_notes(self._pass, texts)
        progress(0.8)
        self._check_longest(texts[-1].ids[-1])
        self.dtype = dtype
        self.limits = Limits(
            layout=self.verdict.layout,
            max_batch_tokens=max_batch_tokens or BATCH_TOKENS[self.device.type],
            streams=1 if one_at_a_time else self.threads,
        )
        self._memory.hand_back()  # what the load and the search for a layout needed, and no pass will
        log.info("layout %s: %s", self.verdict.layout, self.verdict.reason)

    def forward(self, encodings: Sequence[Encoding], reduce: Reduce, *, alone: bool = True) -> list[Output]:
        if self.device.type == "cpu":
            # Alone, one pass takes every core (latency). In company each stream takes one core: no barriers to wait
            # at, which is more tokens per CPU second (docs/benchmarks.md).
            torch.set_num_threads(self.threads if alone or self.limits.streams == 1 else 1)
        order = sorted(range(len(encodings)), key=lambda i: len(encodings[i]))
        batch = [encodings[i] for i in order]
        with computing(self.device):
            states = run(self.network, batch, self.verdict.layout, split=self.verdict.split, varlen=self.verdict.varlen)
            reduced = reduce(states, batch)
            del states
        self._memory.after_pass(sum(map(len, batch)))
        outputs: list[Output] = [None] * len(order)
        for i, output in zip(order, reduced, strict=True):
            outputs[i] = output
        return outputs

    def close(self) -> None:
        self.network.close()
        del self.network
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def describe(self) -> dict[str, Any]:
        device = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu"
        return {
            "device": device,
            "dtype": self.dtype,
            "layout": self.verdict.layout,
            "layout_reason": self.verdict.reason,
            "threads": self.threads,
            "versions": {"torch": str(torch.__version__), "transformers": transformers.__version__},
        }

    def _pass(self, text: Encoding) -> None:
        run(self.network, [text], self.verdict.layout, split=self.verdict.split, varlen=self.verdict.varlen)

    def _check_longest(self, last: int) -> None:
        """Too little GPU memory for one long text, which ends with the token `last`, shows now, not at the first
        caller's."""
        if self.device.type == "cpu":
            return
        try:
            with computing(self.device):
                self._pass(Encoding(ids=[1] * (self.max_length - 1) + [last]))
        except OutOfMemory as error:
            raise LoadError(
                f"one text of {self.max_length} tokens does not fit the memory of {self.device}; "
                "give a smaller --max_length"
            ) from error


def _special_ids(config: Any) -> set[int]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}
