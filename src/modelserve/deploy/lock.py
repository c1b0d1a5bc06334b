"""Who works for a run holds the flock of its lock file; the kernel frees it when the last holder is gone, however.

The starter takes it and hands the open file to the supervisor, so that between the two there is always a holder.
Knows no run and no store.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from modelserve.errors import TargetError

VARIABLE = "MODELSERVE_LOCK_FD"
"""In the supervisor's environment: the descriptor that it inherits."""
_POLL_S = 0.02


class Lock:
    """A lock that is held. The file is not inherited by what this process starts, unless it is handed over."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    @classmethod
    def take(cls, path: Path, wait_s: float = 0.0) -> Lock | None:
        """None when it is not to be had within `wait_s`. Raises TargetError where files cannot be locked."""
        deadline = time.monotonic() + wait_s
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            taken = cls(fd)
            if _flock(fd, fcntl.LOCK_EX, path) and not taken.is_gone(path):
                return taken
            taken.close()
            if time.monotonic() >= deadline:
                return None
            time.sleep(_POLL_S)

    @classmethod
    def inherited(cls, path: Path) -> Lock | None:
        """The one that the starter has handed over; None when there was none."""
        said = os.environ.pop(VARIABLE, None)
        if said is None or not _flock(int(said), fcntl.LOCK_EX, path):
            return None
        os.set_inheritable(int(said), False)
        return cls(int(said))

    def is_gone(self, path: Path) -> bool:
        """Whether the file has no name any more, so that nobody can see that it is held."""
        try:
            return not os.path.samestat(os.fstat(self.fd), path.stat())
        except FileNotFoundError:
            return True
        except OSError:
            return False  # a network's file system that does not answer now

    def close(self) -> None:
        """This process holds it no more; whom it was handed to still does."""
        os.close(self.fd)

    def free(self) -> None:
        """Nobody holds it any more: no forked process of the starter that has a copy without knowing, either."""
        fcntl.flock(self.fd, fcntl.LOCK_UN)
        os.close(self.fd)


@contextlib.contextmanager
def unheld(path: Path) -> Iterator[bool]:
    """Whether nobody works for the run; if so, nobody can begin to before the block is left."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    try:
        yield _flock(fd, fcntl.LOCK_SH, path)
    finally:
        os.close(fd)


def is_held(path: Path) -> bool:
    with unheld(path) as free:
        return not free


def _flock(fd: int, how: int, path: Path) -> bool:
    try:
        fcntl.flock(fd, how | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL):
            raise TargetError(
                f"{path} cannot be locked: {error.strerror}; set MODELSERVE_HOME to a directory of a local disk"
            ) from error
        raise
    return True
