"""How the allocator keeps host memory: in large pages, and little of it after forward passes. Knows no torch.

Texts of all lengths leave holes of all sizes behind, and glibc keeps them: MiniLM's server grew from 490 to 860 MiB in
a quarter of an hour. Smaller mmap thresholds keep it flat too, but cost a tenth of the throughput in page faults.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path

log = logging.getLogger(__name__)

_TUNABLES = "GLIBC_TUNABLES"
_BEGUN = "_MODELSERVE_BEGUN"
"""The pid of who has begun again. A loader drops the tunables of a program with privileges: it would begin for ever."""
_NO_THREAD_CACHES = "glibc.malloc.tcache_count=0"
_MENDED = (2, 39)
"""The first glibc whose aligned blocks leave nothing in a thread's cache (bug 30723)."""
_LARGE_PAGES = "glibc.malloc.hugetlb=1"
OURS = ("glibc.malloc.tcache_count", "glibc.malloc.hugetlb")
"""Of GLIBC_TUNABLES, what is for this process and no other."""
_LARGE_SINCE = (2, 35)
_LARGE_ON_REQUEST = Path("/sys/kernel/mm/transparent_hugepage/enabled")
"""Linux's setting: always, madvise (on request) or never, the one that holds in brackets."""
_COMMANDS = ("modelserve", "huggingfaceserver")
"""Names of the scripts, and of the packages behind `python -m`, that may begin again."""

_TOKENS = 2048
"""Tokens between two calls: a call costs some milliseconds and the page faults after it, these tokens half a second.
Passes would be the wrong measure: those of a caller alone are short, and would pay it most often."""
_TOKENS_WITHOUT_CACHES = 32768
"""Where threads have no caches: there the holes close by themselves, and most of what a call takes is wanted again."""


class HostMemory:
    """Counts tokens. Streams may count at once: one that is lost puts a call off, which harms nobody."""

    def __init__(self) -> None:
        self._tokens = 0
        self._between = _TOKENS_WITHOUT_CACHES if _NO_THREAD_CACHES in os.environ.get(_TUNABLES, "") else _TOKENS
        self._trim = _malloc_trim()

    def after_pass(self, tokens: int) -> None:
        self._tokens += tokens
        if self._tokens >= self._between:
            self._tokens = 0
            self.hand_back()

    def hand_back(self) -> None:
        if self._trim is not None:
            self._trim(0)


def tune_allocator() -> None:
    """Begin this process again, its command line and pid the same, with glibc's allocator tuned for forward passes.

    Without its cache of small pieces a thread, before glibc 2.39: PyTorch aligns its tensors to 64 bytes, and what is
    cut off before such a block goes to the thread's cache, where it is never joined with its neighbours: passes that
    need 17 MiB took 60 to 95, and trimming them off cost 3% of the CPU. With large pages, where Linux gives them on
    request: MiniLM's server did 5% more for its CPU. Nothing but the environment at its start sets either. Call it
    before there are threads or open files; does nothing where it would not help, or where the process is not our
    command, such as a test's.
    """
    before, pid = os.environ.get(_TUNABLES), str(os.getpid())
    wanted = tunables(before or "")
    if wanted == (before or "") or not _is_command() or os.environ.get(_BEGUN) == pid:
        return
    os.environ |= {_TUNABLES: wanted, _BEGUN: pid}
    sys.stdout.flush()
    sys.stderr.flush()
    try:
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
    except OSError as error:
        del os.environ[_TUNABLES], os.environ[_BEGUN]
        os.environ |= {} if before is None else {_TUNABLES: before}
        log.warning("the allocator stays as it is, some 40 MiB larger: this process cannot begin again: %s", error)


def tunables(given: str) -> str:
    """GLIBC_TUNABLES as it should be where it is `given`; what is said there stays."""
    version = _glibc()
    wanted = []
    if version is not None and version < _MENDED:
        wanted.append(_NO_THREAD_CACHES)
    if version is not None and version >= _LARGE_SINCE and _large_on_request():
        wanted.append(_LARGE_PAGES)
    return ":".join(filter(None, [given, *(one for one in wanted if one.partition("=")[0] not in given)]))


def limit_arenas() -> None:
    """Two arenas for all threads, instead of eight a core: what one thread's pass leaves serves the next one's.

    Call it before there are threads. MiniLM's server stays 30 MiB smaller, and no slower: passes ask the allocator for
    few and large pieces, so there is nothing to contend for.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt") and hasattr(libc, "gnu_get_libc_version"):
        libc.mallopt(_M_ARENA_MAX, 2)


_M_ARENA_MAX = -8
"""mallopt(3)."""


def _is_command() -> bool:
    """Whether this process was started as `modelserve` or `python -m modelserve`, and so can be started again."""
    script = Path(sys.argv[0])
    name = script.parent.name if script.name == "__main__.py" else script.name
    return bool(sys.executable) and name in _COMMANDS


def _large_on_request() -> bool:
    try:
        return "[madvise]" in _LARGE_ON_REQUEST.read_text()
    except OSError:
        return False


def _glibc() -> tuple[int, ...] | None:
    """Its version; None with another C library."""
    try:
        version = ctypes.CDLL(None).gnu_get_libc_version
    except (OSError, AttributeError, TypeError):
        return None
    version.restype = ctypes.c_char_p
    return tuple(int(part) for part in version().decode().split(".")[:2])


def _malloc_trim() -> Callable[[int], int] | None:
    """glibc's; None with another C library, whose allocator keeps less."""
    try:
        trim: Callable[[int], int] = ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
    return trim
