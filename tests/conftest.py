"""What every test runs under: one thread for each pass of PyTorch, and bytecode that is kept."""

from __future__ import annotations

import os
import sys

import pytest

# Where a machine says otherwise, each run compiles two hundred test modules again, and each process that a test starts
# the package. `__pycache__` is ignored by git.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """A model that is loaded sets the threads of the whole process, and on tiny models two threads wait for each
    other: whatever ran after such a test took ten times as long. A test that wants more asks for them itself."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1:
        torch.set_num_threads(1)
