"""One downloaded model in $MODELSERVE_HOME/models: its whole copies, the files on their way, and who works on it.

    <label>/lock           held by the one process that downloads; the kernel lets go of it when the process ends
    <label>/part/          on its way: note.json says what of, files/ holds what has come; survives kill -9
    <label>/unpack/        an archive that is being unpacked; begun anew after kill -9
    <label>/<number>/      a whole copy, made by renaming one of the two: the highest number is current

The copy before the current one stays, for a process that is just loading it; older ones go. Knows no network. Blocks;
runs in the load thread; several processes share the directory.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import msgspec
from filelock import FileLock, Timeout

from modelserve.errors import LoadError
from modelserve.runtime.checksums import Checksum

log = logging.getLogger(__name__)

_POLL_S = 0.2
"""Between two looks at what another process has downloaded."""
_STALLED_S = 600.0
"""Without a byte from the process that downloads. It may be comparing a checksum over hundreds of GB."""


class Item(msgspec.Struct, frozen=True):
    """What a remote says of one file."""

    size: int | None
    mark: str
    """What changes when the content does (ETag, Last-Modified); "" when the remote has none."""
    checksum: Checksum | None = None

    def same(self, other: Item | None) -> bool:
        """Whether the content is, as far as the remote tells."""
        if other is None or (self.size, self.mark) != (other.size, other.mark):
            return False
        mine, its = self.checksum, other.checksum
        return mine is None or its is None or mine.algorithm != its.algorithm or mine.digest == its.digest


class Note(msgspec.Struct, frozen=True):
    """note.json."""

    url: str
    """For people who look into the cache."""
    items: dict[str, Item]
    """Path below files/ -> what the remote said of it; for an archive, what it said of the archive."""
    files: dict[str, int] = {}
    """Path below files/ -> size, of a whole copy."""
    root: str = ""
    """Of a whole copy: the path below files/ of the file or folder that is the model."""
    sha256: str | None = None
    """Of a single file or archive, where it was compared."""


class Copy(NamedTuple):
    """A whole copy."""

    path: Path
    """The model's file or folder."""
    files: Path
    note: Note


class Part:
    """The files that are on their way."""

    def __init__(self, directory: Path, url: str) -> None:
        self.directory = directory
        self._url = url
        self._files = directory / "files"
        note = _read(directory)
        self.items: dict[str, Item] = dict(note.items) if note else {}
        if note is None:
            shutil.rmtree(directory, ignore_errors=True)  # nobody knows what these bytes are of

    def file(self, name: str) -> Path:
        return self._files / name

    def size(self, name: str) -> int:
        """Bytes that are here."""
        try:
            return self.file(name).stat().st_size
        except FileNotFoundError:
            return 0

    def expect(self, items: Mapping[str, Item], copy: Copy | None = None) -> None:
        """Keep what has come of these items and drop all else. Files of `copy` that are still the same are taken."""
        kept = {name: old for name, old in self.items.items() if old.mark and old.same(items.get(name))}
        for name in self.items.keys() - kept.keys():
            self.drop(name)
        whole = copy.note.items if copy is not None else {}
        known = {name: item for name, item in whole.items() if item.mark and item.same(items.get(name))}
        self.items = {**items, **known, **kept}  # with the checksums that were told before
        self._files.mkdir(parents=True, exist_ok=True)
        _write(self.directory, Note(self._url, self.items))
        for name in self.items:
            self.file(name).parent.mkdir(parents=True, exist_ok=True)
            if copy is not None and name in known and not self.file(name).exists():
                with suppress(OSError):  # a file system without links: the file is downloaded
                    os.link(copy.files / name, self.file(name))

    def begin(self, name: str, item: Item) -> None:
        """This file comes from its first byte."""
        self.drop(name)
        self.items.pop(name, None)
        self.expect({**self.items, name: item})
        self.file(name).touch()

    def drop(self, name: str) -> None:
        self.file(name).unlink(missing_ok=True)

    def clear(self) -> None:
        shutil.rmtree(self.directory, ignore_errors=True)


class Entry:
    """The model's folder in the cache."""

    def __init__(self, models: Path, label: str, url: str) -> None:
        self.directory = models / label
        self.url = url

    def current(self) -> Copy | None:
        """The newest copy; None when there is none, or when files of it are gone or cut off."""
        numbers = self._numbers()
        if not numbers:
            return None
        directory = self.directory / str(numbers[-1])
        note = _read(directory)
        files = directory / "files"
        if note is None or any(_size(files / name) != size for name, size in note.files.items()):
            log.warning("the cache's copy of %s (%s) is not whole any more", self.url, directory)
            return None
        return Copy(files / note.root, files, note)

    @contextmanager
    def lock(self, waiting: Callable[[float], None]) -> Iterator[None]:
        """Alone with the folder. `waiting` is told how far another process is. Raises LoadError when that one stands
        still."""
        self.directory.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.directory / "lock")
        arrived, since_s = -1, 0.0
        while True:
            try:
                lock.acquire(timeout=_POLL_S)
                break
            except Timeout:
                total, now = self._arrived(), time.monotonic()
                if arrived == -1:
                    log.info("another process fetches %s; waiting for it", self.url)
                if total != arrived:
                    arrived, since_s = total, now
                elif now - since_s > _STALLED_S:
                    raise LoadError(
                        f"another process has been fetching {self.url} into {self.directory} and for {_STALLED_S:g} s "
                        "nothing has arrived there; end that process"
                    ) from None
                note = _read(self.directory / "part")
                expected = sum(item.size or 0 for item in note.items.values()) if note else 0
                waiting(min(1.0, total / expected) if expected else 0.0)
        try:
            yield
        finally:
            lock.release()

    def part(self) -> Part:
        return Part(self.directory / "part", self.url)

    @contextmanager
    def unpacking(self) -> Iterator[Path]:
        """An empty unpack/files."""
        directory = self.directory / "unpack"
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "files").mkdir(parents=True)
        try:
            yield directory / "files"
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def publish(self, files: Path, items: Mapping[str, Item], *, root: str, sha256: str | None) -> Copy:
        """What lies in `files` (part/files or unpack/files) is whole from now on."""
        held = {file.relative_to(files).as_posix(): file.stat().st_size for file in files.rglob("*") if file.is_file()}
        note = Note(self.url, dict(items), held, root, sha256)
        _write(files.parent, note)
        number = max(self._numbers(), default=0) + 1
        directory = self.directory / str(number)
        os.rename(files.parent, directory)
        shutil.rmtree(self.directory / "part", ignore_errors=True)
        for old in self._numbers()[:-2]:
            shutil.rmtree(self.directory / str(old), ignore_errors=True)
        return Copy(directory / "files" / root, directory / "files", note)

    def _numbers(self) -> list[int]:
        try:
            return sorted(int(name) for name in os.listdir(self.directory) if name.isdecimal())
        except FileNotFoundError:
            return []

    def _arrived(self) -> int:
        walks = (os.walk(self.directory / name) for name in ("part", "unpack"))
        return sum(_size(Path(at, name)) or 0 for walk in walks for at, _, names in walk for name in names)


def check_space(shown: str, needed: int, directory: Path) -> None:
    """Raises LoadError when so many bytes do not fit."""
    free = shutil.disk_usage(directory).free
    if needed > free:
        raise LoadError(
            f"the disk is too full for {shown}: {needed / 1e9:.1f} GB are needed in {directory}, "
            f"{free / 1e9:.1f} GB are free; make room, or set MODELSERVE_HOME to another disk"
        )


def disk_reason(error: OSError, models: Path) -> str:
    """One sentence on why the cache could not be read or written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk of the cache is full ({models}); make room, or set MODELSERVE_HOME to another disk"
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return f"the cache ({models}) cannot be written; set MODELSERVE_HOME to a directory that can"
    return f"the cache ({models}) cannot be used: {error.strerror or error}"


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def _read(directory: Path) -> Note | None:
    try:
        return msgspec.json.decode((directory / "note.json").read_bytes(), type=Note)
    except (OSError, msgspec.DecodeError):  # none, or of another version of modelserve
        return None


def _write(directory: Path, note: Note) -> None:
    new = directory / "note.json.new"
    with new.open("wb") as stream:
        stream.write(msgspec.json.encode(note))
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(new, directory / "note.json")
