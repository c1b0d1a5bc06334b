from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from modelserve.backends import memory

PROGRAM = """
import json, os, sys
from modelserve.backends import memory
memory._MENDED = (99,)
memory._large_on_request = lambda: True
memory.tune_allocator()
print(json.dumps([os.getpid(), sys.argv[1:], sys.flags.safe_path, os.environ.get("GLIBC_TUNABLES")]))
"""


@pytest.mark.parametrize(
    ("caches", "tokens"), [("", memory._TOKENS), (memory._NO_THREAD_CACHES, memory._TOKENS_WITHOUT_CACHES)]
)
def test_memory_is_handed_back_by_the_tokens_that_were_computed(
    monkeypatch: pytest.MonkeyPatch, caches: str, tokens: int
) -> None:
    calls: list[int] = []
    monkeypatch.setattr(memory, "_malloc_trim", lambda: calls.append)
    monkeypatch.setenv("GLIBC_TUNABLES", caches)
    host = memory.HostMemory()
    for _ in range(4):
        host.after_pass(tokens // 2)
    assert calls == [0, 0]
    host.hand_back()
    assert calls == [0, 0, 0]


@pytest.mark.parametrize(
    ("script", "before", "after"),
    [
        ("modelserve", None, "glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1"),
        (
            "huggingfaceserver/__main__.py",
            "glibc.malloc.perturb=1",
            "glibc.malloc.perturb=1:glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1",
        ),
        ("modelserve", "glibc.malloc.tcache_count=7", "glibc.malloc.tcache_count=7:glibc.malloc.hugetlb=1"),
        ("another", None, None),
    ],
)
def test_our_command_begins_again_tuned(tmp_path: Path, script: str, before: str | None, after: str | None) -> None:
    """The same process, with the same words, once."""
    file = tmp_path / script
    file.parent.mkdir(exist_ok=True)
    file.write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    environment |= {} if before is None else {"GLIBC_TUNABLES": before}
    command = [sys.executable, "-P", str(file), "serve", "--model_name", "a b"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        said = json.loads(process.stdout.read())
    assert said == [process.pid, ["serve", "--model_name", "a b"], True, after]


def test_a_loader_that_drops_the_tunables_is_asked_once(tmp_path: Path) -> None:
    file = tmp_path / "modelserve"
    file.write_text(PROGRAM.replace("from modelserve", "os.environ.pop('GLIBC_TUNABLES', None)\nfrom modelserve"))
    command = [sys.executable, "-P", str(file), "serve"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=60, check=True)
    assert json.loads(done.stdout)[1:] == [["serve"], True, None]


def test_without_leave_to_begin_again_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "_MENDED", (99,))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/modelserve"])
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.perturb=1")
    memory.tune_allocator()
    assert os.environ["GLIBC_TUNABLES"] == "glibc.malloc.perturb=1"
    monkeypatch.delenv("GLIBC_TUNABLES")
    memory.tune_allocator()
    assert "GLIBC_TUNABLES" not in os.environ


@pytest.mark.parametrize("version", [None, (2, 39)])
def test_where_nothing_is_to_be_won_nothing_is_done(
    monkeypatch: pytest.MonkeyPatch, version: tuple[int, ...] | None
) -> None:
    monkeypatch.setattr(memory, "_glibc", lambda: version)
    monkeypatch.setattr(memory, "_LARGE_ON_REQUEST", Path("/nowhere"))
    monkeypatch.setattr(sys, "argv", ["/usr/bin/modelserve"])
    monkeypatch.setattr(os, "execv", lambda *command: pytest.fail("it began again"))
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    memory.tune_allocator()


@pytest.mark.parametrize(
    ("setting", "version", "given", "wanted"),
    [
        ("always [madvise] never", (2, 41), "", "glibc.malloc.hugetlb=1"),
        ("always [madvise] never", (2, 41), "glibc.malloc.hugetlb=0", "glibc.malloc.hugetlb=0"),
        ("[always] madvise never", (2, 41), "", ""),
        ("always [madvise] never", (2, 31), "", "glibc.malloc.tcache_count=0"),
        ("always [madvise] never", (2, 36), "", "glibc.malloc.tcache_count=0:glibc.malloc.hugetlb=1"),
        ("always [madvise] never", None, "a=1", "a=1"),
    ],
)
def test_large_pages_are_asked_for_where_linux_gives_them_on_request(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    setting: str,
    version: tuple[int, ...] | None,
    given: str,
    wanted: str,
) -> None:
    file = tmp_path / "enabled"
    file.write_text(setting)
    monkeypatch.setattr(memory, "_LARGE_ON_REQUEST", file)
    monkeypatch.setattr(memory, "_glibc", lambda: version)
    assert memory.tunables(given) == wanted


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


def test_glibc_has_it_and_others_are_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory._malloc_trim() is not None
    assert (memory._glibc() or ())[:1] == (2,)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert memory._malloc_trim() is None
    assert memory._glibc() is None
    memory.HostMemory().after_pass(memory._TOKENS_WITHOUT_CACHES)
