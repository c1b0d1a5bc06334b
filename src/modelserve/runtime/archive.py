"""A .zip or .tar(.gz) file into an empty directory, from whoever it came.

Nothing is written outside of the directory, no link is made, no mode is taken over, and how much comes out is bounded.
What is left after an error or a killed process is no model: the caller renames the directory when this has returned.
Knows no model and no cache. Blocks; runs in the load thread.
"""

from __future__ import annotations

import lzma
import os
import re
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from modelserve.errors import LoadError

MAX_FILES = 10_000
"""Of a model. The largest have some hundred shards; an environment that was packed by mistake has more."""
MAX_BYTES = 1 << 40
"""Of a model, unpacked. The largest that are published have some 1.5 TB, as shards that nobody packs."""

_PIECE = 1 << 20
_IGNORED = ("__MACOSX", ".DS_Store")
"""What macOS puts beside the files that were meant."""

_DAMAGES = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,  # a compression that Python does not have
    RuntimeError,  # zipfile's, for a password
    ValueError,
)


class _Member(NamedTuple):
    name: str
    size: int
    kind: str
    """file, folder, or what else it is, in a word."""
    open: Callable[[], IO[bytes] | None]


def unpack(archive: Path, into: Path, *, shown: str, progress: Callable[[float], None]) -> None:
    """Everything that is in `archive`; `into` must be there and empty.

    shown: the archive's name for messages. progress: told the fraction that is done. Raises LoadError for an archive
    that is damaged, unsafe or too large; OSError where the disk does not take it.
    """
    size = archive.stat().st_size or 1
    try:
        with ExitStack() as close:
            file = close.enter_context(archive.open("rb"))
            members = _members(file, close)
            _write(members, into, shown, lambda: progress(min(1.0, file.tell() / size)))
    except _DAMAGES as error:
        raise _damaged(shown, error) from error
    except OSError as error:
        if error.errno is not None:
            raise
        raise _damaged(shown, error) from error  # gzip and bz2 say so of their content
    progress(1.0)


def inside(name: str, shown: str) -> PurePosixPath:
    """The path of a file below the folder that it is meant for. Raises LoadError for one that leads out of it."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or ".." in path.parts or re.match(r"[A-Za-z]:", name) or re.search(r"[\x00-\x1f]", name):
        raise LoadError(f"{shown} holds {name[:200]!r}, which is no path below a model's folder; nothing of it is used")
    return path


def _write(members: Iterator[_Member], into: Path, shown: str, arrived: Callable[[], None]) -> None:
    files = total = 0
    most = min(MAX_BYTES, shutil.disk_usage(into).free)
    for member in members:
        path = inside(member.name, shown)
        if not path.parts or path.parts[0] in _IGNORED or path.name == ".DS_Store":
            continue
        files += 1
        total += member.size
        if files > MAX_FILES:
            raise LoadError(f"{shown} holds more than {MAX_FILES} files, so it is no model")
        if total > most:
            raise LoadError(f"{shown} holds more than {most / 1e9:.1f} GB, which is what it may take on this disk")
        if member.kind not in ("file", "folder"):
            raise LoadError(f"{shown} holds a {member.kind} ({member.name!r}), and only files and folders are unpacked")
        try:
            if member.kind == "folder":
                (into / path).mkdir(parents=True, exist_ok=True)
            else:
                (into / path).parent.mkdir(parents=True, exist_ok=True)
                _copy(member, into / path, arrived)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise LoadError(f"{shown} holds {member.name!r} twice") from error
    if not files:
        raise LoadError(f"{shown} is an empty archive")


def _copy(member: _Member, file: Path, arrived: Callable[[], None]) -> None:
    source = member.open()
    if source is None:
        raise EOFError(f"{member.name} has no content")
    left = member.size
    with source, file.open("xb") as target:
        while piece := source.read(_PIECE):
            left -= len(piece)
            if left < 0:
                break
            target.write(piece)
            arrived()
        target.flush()
        os.fsync(target.fileno())  # the rename that follows must not be on the disk before it
    if left:
        raise EOFError(f"{member.name} should have {member.size} bytes")


def _members(file: IO[bytes], close: ExitStack) -> Iterator[_Member]:
    magic = file.read(2)
    file.seek(0)
    return _zip(file, close) if magic == b"PK" else _tar(file, close)


def _zip(file: IO[bytes], close: ExitStack) -> Iterator[_Member]:
    archive = close.enter_context(zipfile.ZipFile(file))
    for info in archive.infolist():
        mode = stat.S_IFMT(info.external_attr >> 16)
        kind = "folder" if info.is_dir() else "link" if mode == stat.S_IFLNK else "file"
        yield _Member(info.filename, info.file_size, kind, partial(archive.open, info))


def _tar(file: IO[bytes], close: ExitStack) -> Iterator[_Member]:
    archive = close.enter_context(tarfile.open(fileobj=file, mode="r:*"))  # noqa: SIM115
    for info in archive:
        kind = "file" if info.isreg() else "folder" if info.isdir() else "link or device"
        yield _Member(info.name, info.size, kind, partial(archive.extractfile, info))
    stream = archive.fileobj
    while stream is not None and stream.read(_PIECE):  # up to the checksum of the compressed stream
        pass


def _damaged(shown: str, error: Exception) -> LoadError:
    said = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return LoadError(f"{shown} is no .zip, .tar.gz or .tgz archive, or it is damaged: {said}")
