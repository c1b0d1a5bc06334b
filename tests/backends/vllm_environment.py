"""vLLM on a CPU, in an environment of its own."""

from __future__ import annotations

from pathlib import Path

from tests.environments import environment
from tests.generative import tiny_generative


def model() -> Path:
    """vLLM's kernels for CPUs have heads of 32 and more."""
    return tiny_generative("llama", hidden_size=128)


def vllm_python() -> Path:
    """Its Python; 3.5 GB and some three minutes, the first time."""
    return environment(Path(__file__).with_name("requirements-vllm.txt"), checked=False)
