from __future__ import annotations

import subprocess
import sys

from modelserve.backends import memory


def test_memory_is_handed_back_by_the_tokens_that_were_computed(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls: list[int] = []
    monkeypatch.setattr(memory, "_malloc_trim", lambda: calls.append)
    host = memory.HostMemory()
    for _ in range(4):
        host.after_pass(memory._TOKENS // 2)
    assert calls == [0, 0]
    host.hand_back()
    assert calls == [0, 0, 0]


def test_threads_share_two_arenas() -> None:
    """malloc_info names an arena once a thread has used it."""
    program = """
import ctypes, os, sys, tempfile, threading
from modelserve.backends.memory import limit_arenas
if sys.argv[1] == "limited":
    limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
barrier = threading.Barrier(6)
def use() -> None:
    barrier.wait()
    for _ in range(50):
        libc.malloc(100_000)
    barrier.wait()
threads = [threading.Thread(target=use) for _ in range(6)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
libc.fopen.restype = ctypes.c_void_p
with tempfile.NamedTemporaryFile() as file:
    stream = ctypes.c_void_p(libc.fopen(file.name.encode(), b"w"))
    libc.malloc_info(0, stream)
    libc.fclose(stream)
    print(open(file.name).read().count("<heap nr="))
"""
    counts = [
        int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True, text=True).stdout)
        for how in ("limited", "free")
    ]
    assert counts[0] == 2 < counts[1]


def test_glibc_has_it_and_others_are_left_alone(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert memory._malloc_trim() is not None
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory._malloc_trim() is None
    memory.HostMemory().after_pass(memory._TOKENS)
