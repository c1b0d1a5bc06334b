"""A directory that is made beside its place and put there when it is whole: whatever ends it, nothing half is left.

Knows nothing of what it holds. Blocking; several processes may want the same place at once.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

from filelock import FileLock, Timeout

from modelserve.errors import LoadError
from modelserve.runtime.conversions import cache
from modelserve.runtime.weights import Shapes

Say = Callable[[str], None]
"""Told in some words what is being done."""

_OLD = "-old"
"""End of the name of what gives way to a newer one."""


@contextmanager
def alone(target: Path, say: Say) -> Iterator[None]:
    """Nobody else makes it. The lock lies in the cache, so that no file of ours stays beside the target."""
    directory = cache() / "locks"
    directory.mkdir(parents=True, exist_ok=True)
    lock = FileLock(directory / f"{_mark(target)}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        say("waiting for another one to end that makes the same")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def building(target: Path, parent: Path) -> Iterator[Path]:
    """A new directory in `parent`, which is on the target's disk; gone at the end, unless `put` has moved it.

    To be entered `alone`: what a process that was killed has left of the same target is cleared away.
    """
    begun = f".building-{_mark(target)}-"
    for torn in parent.glob(f"{begun}*"):
        if torn.name.endswith(_OLD) and not target.exists():  # it ended in the midst of `put`
            os.replace(torn, target)
        shutil.rmtree(torn, ignore_errors=True)
    # A name of its own: a child of one that was killed may still be writing.
    directory = parent / f"{begun}{os.getpid()}"
    try:
        directory.mkdir()
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def put(made: Path, target: Path) -> None:
    """Move it to its place, where an older one may be: that one is gone then, and back when the move fails."""
    if not target.exists():
        os.replace(made, target)
        return
    old = made.with_name(f"{made.name}{_OLD}")
    os.replace(target, old)
    try:
        os.replace(made, target)
    except BaseException:
        os.replace(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def check_space(shapes: Shapes | None, bytes_each: int, directory: Path, what: str, target: Path) -> None:
    """Raises LoadError when so many numbers would not fit the disk of `directory`."""
    if shapes is None:
        return
    needed = sum(prod(shape) for shape in shapes.values()) * bytes_each
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise LoadError(
            f"the disk is too full for {what}: {needed / 1e9:.1f} GB are needed in {target.parent}, "
            f"{free / 1e9:.1f} GB are free; give --output on another disk"
        )


def _mark(target: Path) -> str:
    return hashlib.sha256(str(target).encode()).hexdigest()[:16]
