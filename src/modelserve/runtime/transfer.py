"""Bytes of one file from a remote into the cache: taken up where they broke off, tried again, compared.

Knows no protocol: web.py and bucket.py ask their remote and hand over what it answers. Blocks; runs in the load thread.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeVar

from modelserve.errors import LoadError
from modelserve.runtime.cache import Item, Part, check_space

log = logging.getLogger(__name__)

PAUSES_S = (1.0, 2.0, 4.0)
"""Between tries to reach a remote, when there is nothing in the cache to fall back on (hub.py's)."""
_HEADWAY = 1 << 20
"""Bytes after which a connection that broke counts as a new one: a large file over a bad line comes in the end."""

_T = TypeVar("_T")


class Unreachable(Exception):
    """The remote cannot be asked, or refuses: what the cache has may serve. `passing`: another try may help."""

    def __init__(self, message: str, *, passing: bool) -> None:
        super().__init__(message)
        self.passing = passing


class Body(NamedTuple):
    """What a remote answers when it is asked for a file."""

    item: Item
    start: int
    """The byte that `chunks` begin with; 0 when what was here is of no use."""
    chunks: Iterable[bytes]


Ask = Callable[[], AbstractContextManager[Body | None]]
"""Ask the remote for what is missing; None when the cache's whole copy is what the remote has."""


def receive(
    part: Part, name: str, ask: Ask, *, shown: str, arrived: Callable[[], None], pauses_s: Iterable[float]
) -> bool:
    """The whole file in `part`, as large as the remote says and with its checksum; False when `ask` says None.

    arrived: called when there are more bytes. A damaged file is got again, once. Raises Unreachable, LoadError, and
    OSError when the disk does not take it.
    """
    take = partial(_take, part, name, ask, shown, arrived)
    wrong = ""
    for _ in range(2):
        if not patiently(take, partial(part.size, name), pauses_s):
            return False
        checksum = part.items[name].checksum
        if checksum is None or (actual := digest(part.file(name), checksum.algorithm)) == checksum.digest:
            return True
        part.drop(name)
        wrong = f"its {checksum.algorithm} is {actual}, and it should be {checksum.digest}"
        log.warning("%s arrived damaged: %s", shown, wrong)
    raise LoadError(f"{shown} arrived damaged twice: {wrong}")


def patiently(step: Callable[[], _T], size: Callable[[], int], pauses_s: Iterable[float]) -> _T:
    """Call until it works, with these pauses, as long as another try may help; `size` tells of headway."""
    pauses_s = tuple(pauses_s)
    left = list(pauses_s)
    while True:
        before = size()
        try:
            return step()
        except Unreachable as error:
            if size() - before >= _HEADWAY:
                left = list(pauses_s or PAUSES_S)
            if not error.passing or not left:
                raise
            pause_s = left.pop(0)
            log.warning("%s; trying again in %g s", error, pause_s)
        time.sleep(pause_s)


def digest(file: Path, algorithm: str) -> str:
    """In hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, partial(hashlib.new, algorithm, usedforsecurity=False)).hexdigest()


def _take(part: Part, name: str, ask: Ask, shown: str, arrived: Callable[[], None]) -> bool:
    """One answer of the remote, onto the disk."""
    with ask() as body:
        if body is None:
            return False
        if body.start == 0:
            part.begin(name, body.item)
        if body.item.size is not None:
            check_space(shown, body.item.size - body.start, part.directory)
        with part.file(name).open("ab") as stream:
            for chunk in body.chunks:
                stream.write(chunk)
                stream.flush()  # its size is what other processes see of the progress
                arrived()
            os.fsync(stream.fileno())
    size = part.size(name)
    if body.item.size is not None and size != body.item.size:
        if size > body.item.size:
            part.drop(name)
        raise Unreachable(f"{shown} ended after {size} of {body.item.size} bytes", passing=True)
    return True
