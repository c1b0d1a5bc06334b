"""The device's errors in our words. Knows no model; runs in whatever thread computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from modelserve.backends.base import DeviceLost, OutOfMemory


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Inference mode; raises OutOfMemory and DeviceLost for what torch raises, and everything else as it is."""
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
        if device.type == "cuda" and "CUDA error" in str(error):
            raise DeviceLost(str(error)) from error
        raise
