"""A model's weights from its directory into memory, as transformers loads them, with its complaints in our words.

Knows no task and no engine. Runs in the load thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import transformers
from transformers import PreTrainedModel

from modelserve.errors import LoadError

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


def load_pretrained(
    path: Path,
    auto_class: str,
    dtype: str,
    trust_remote_code: bool,
    allow_pickle: bool,
    missing: Callable[[Sequence[str]], str | None],
) -> PreTrainedModel:
    """The model of `path` as transformers' `auto_class`; `missing` says whether keys that the file lacks matter.

    Raises LoadError when the weights do not fit the task or cannot be read.
    """
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


def find_device(name: str) -> torch.device:
    """auto takes a GPU when there is one. Raises LoadError."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise LoadError("--device cuda: this machine has no usable CUDA device; take --device auto or cpu")
    return torch.device(name)


def dtype_name(name: str | None, device: torch.device) -> str:
    """float32 where nothing is said; auto is the seed's: float16 on a GPU, float32 without one."""
    if name == "auto":
        return "float16" if device.type == "cuda" else "float32"
    return name or "float32"
