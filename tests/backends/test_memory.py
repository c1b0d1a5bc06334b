from __future__ import annotations

from modelserve.backends import memory


def test_memory_is_handed_back_every_some_passes(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    calls: list[int] = []
    monkeypatch.setattr(memory, "_malloc_trim", lambda: calls.append)
    host = memory.HostMemory()
    for _ in range(2 * memory._PASSES):
        host.after_pass()
    assert calls == [0, 0]


def test_glibc_has_it_and_others_are_left_alone(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    assert memory._malloc_trim() is not None
    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    assert memory._malloc_trim() is None
    memory.HostMemory().after_pass()
