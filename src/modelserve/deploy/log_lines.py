"""Reads what log_file.py writes, from any process: the last lines, and those to come.

Knows no run. Blocking; the thread of whoever asks for the next line.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from modelserve.deploy.log_file import NAME, numbered

_POLL_S = 0.1
"""A person who watches takes this for at once."""
_BLOCK = 2**16


def read(directory: Path, tail: int | None = None, ended: Callable[[], bool] | None = None) -> Iterator[str]:
    """The last `tail` lines, all that are kept when None; with `ended`, also those to come until it says so."""
    files = _files(directory)
    try:
        if tail is not None:
            _seek_last(files, tail)
        rest, over = b"", False
        while True:
            file = files[0] if files else None
            if file is not None:
                rest = yield from _lines(file, rest)
            if len(files) > 1:
                files.pop(0).close()
                continue
            after = None if ended is None else _after(directory, file)
            if after is not None:
                if file is not None:
                    rest = yield from _lines(file, rest)  # nothing more is written to it since there is another
                    files.pop(0).close()
                files.append(after)
            elif over or ended is None:
                break
            else:
                over = ended()  # then once more, for what was written between the last look and the end
                if not over:
                    time.sleep(_POLL_S)
        if rest:
            yield _text(rest)
    finally:
        for file in files:
            file.close()


def _lines(file: BinaryIO, rest: bytes) -> Generator[str, None, bytes]:
    """From where the file is read to its end. rest: the beginning of a line; returns what is left of one."""
    while block := file.read(_BLOCK):
        *lines, rest = (rest + block).split(b"\n")
        for line in lines:
            yield _text(line)
    return rest


def _text(line: bytes) -> str:
    return line.decode(errors="replace").removesuffix("\r")


def _files(directory: Path) -> list[BinaryIO]:
    """Oldest first, the one that is written last; as they were at one moment."""
    last = _open(directory / NAME)
    files: list[BinaryIO] = []
    for path in numbered(directory).values():
        if last is not None and _is(path, last):
            break  # it became full since it was opened
        if (file := _open(path)) is not None:
            files.append(file)
    return files if last is None else [*files, last]


def _after(directory: Path, file: BinaryIO | None) -> BinaryIO | None:
    """The file that follows one which is full; None while that is still written."""
    if file is not None and _is(directory / NAME, file):
        return None
    written = _open(directory / NAME)
    if written is None:
        return None
    full = numbered(directory)  # looked at after the other was opened: what became full meanwhile is in there
    own = next((number for number, path in full.items() if file is not None and _is(path, file)), 0)
    for number, path in full.items():
        if number > own and not _is(path, written) and (older := _open(path)) is not None:
            written.close()
            return older
    return written


def _open(path: Path) -> BinaryIO | None:
    try:
        return path.open("rb")
    except FileNotFoundError:
        return None


def _is(path: Path, file: BinaryIO) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def _seek_last(files: list[BinaryIO], tail: int) -> None:
    """Leave the files that hold the last `tail` lines, the first of them at the place where these begin."""
    for index in reversed(range(len(files))):
        size = os.fstat(files[index].fileno()).st_size
        if not size:
            continue
        with mmap.mmap(files[index].fileno(), size, access=mmap.ACCESS_READ) as content:
            place = size - 1 if content[-1:] == b"\n" else size
            while tail and place >= 0:
                place = content.rfind(b"\n", 0, place)
                tail -= 1
        if not tail:
            files[index].seek(min(place + 1, size))
            for file in files[:index]:
                file.close()
            del files[:index]
            return
