"""Transformers on PyTorch, CPU or CUDA: loads the weights with the head that the task needs, finds out how texts may
share a forward pass, and runs the passes. Knows no queue and no protocol; `forward` runs in a backend thread.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from modelserve.backends import layout as layouts
from modelserve.backends.base import DeviceLost, Limits, OutOfMemory, Reduce
from modelserve.backends.batch import run
from modelserve.backends.cores import cores
from modelserve.backends.memory import HostMemory
from modelserve.backends.network import Network
from modelserve.errors import LoadError
from modelserve.types import Encoding, Output

log = logging.getLogger(__name__)

BATCH_TOKENS = {"cpu": 512, "cuda": 16384}
"""Token budget of one pass where --max_batch_tokens is not given. CPU: throughput is flat from 512 tokens on and a
shorter pass answers sooner (docs/benchmarks.md). CUDA: what keeps the matrix units of a large GPU busy."""

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


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
        self.device = _device(device)
        dtype = _dtype(dtype, self.device)
        self.threads = threads or cores()
        self._memory = HostMemory()
        if self.device.type == "cpu":
            torch.set_num_threads(self.threads)
        whole = _load(path, auto_class, dtype, trust_remote_code, allow_pickle, missing).to(self.device)
        progress(0.5)
        self.network = Network(whole)
        self.max_length = max_length
        known = self.network.positions
        if known is not None and known < max_length:
            raise LoadError(
                f"the model has positions for {known} tokens, not for {max_length}; give --max_length {known}"
            )
        varlen = self.device.type == "cuda" and DTYPES[dtype] is not torch.float32
        with self._computing():
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
        with self._computing():
            states = run(self.network, batch, self.verdict.layout, split=self.verdict.split, varlen=self.verdict.varlen)
            reduced = reduce(states, batch)
            del states
        self._memory.after_pass(sum(map(len, batch)))
        outputs: list[Output] = [None] * len(order)
        for i, output in zip(order, reduced, strict=True):
            outputs[i] = output
        return outputs

    def close(self) -> None:
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
            with self._computing():
                self._pass(Encoding(ids=[1] * (self.max_length - 1) + [last]))
        except OutOfMemory as error:
            raise LoadError(
                f"one text of {self.max_length} tokens does not fit the memory of {self.device}; "
                "give a smaller --max_length"
            ) from error

    @contextlib.contextmanager
    def _computing(self) -> Iterator[None]:
        """Inference mode, with the device's errors in our words."""
        try:
            with torch.inference_mode():
                yield
        except torch.OutOfMemoryError as error:
            torch.cuda.empty_cache()
            raise OutOfMemory(str(error)) from error
        except MemoryError as error:
            raise OutOfMemory("the host has no memory left") from error
        except RuntimeError as error:
            if "can't allocate memory" in str(error) or "not enough memory" in str(error):
                raise OutOfMemory(str(error)) from error
            if self.device.type == "cuda" and "CUDA error" in str(error):
                raise DeviceLost(str(error)) from error
            raise


def _load(
    path: Path,
    auto_class: str,
    dtype: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    missing: Callable[[Sequence[str]], str | None],
) -> PreTrainedModel:
    transformers.utils.logging.disable_progress_bar()
    try:
        model, report = getattr(transformers, auto_class).from_pretrained(
            path,
            dtype=DTYPES[dtype],
            trust_remote_code=trust_remote_code,
            use_safetensors=None if allow_pickle else True,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as error:
        raise LoadError(f"{path.name} cannot be loaded with {auto_class}: {_first_line(error)}") from error
    if mismatched := report.get("mismatched_keys"):
        raise LoadError(f"the weights do not fit config.json: {sorted(str(key[0]) for key in mismatched)[0]}")
    if reason := missing(sorted(report.get("missing_keys", ()))):
        raise LoadError(reason)
    loaded: PreTrainedModel = model
    return loaded


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LoadError("--device cuda: this machine has no usable CUDA device; take --device auto or cpu")
    return torch.device(name)


def _dtype(name: str | None, device: torch.device) -> str:
    """Encoders default to float32; auto is the seed's: float16 on a GPU, float32 without one."""
    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    return name or "float32"


def _special_ids(config: Any) -> set[int]:
    names = ("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
    return {value for name in names if isinstance(value := getattr(config, name, None), int)}
