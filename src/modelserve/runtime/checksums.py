"""Files of a snapshot in Hugging Face's cache, compared with the hub's checksums before they are used the first time.

huggingface_hub compares sizes only. Which files were compared is noted in the cache, so that a start does not read
all weights again; a file that changes is compared again. Knows no hub. Blocks; runs in the load thread.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from modelserve.errors import LoadError

log = logging.getLogger(__name__)


class Checksum(NamedTuple):
    """What the hub says of a file's content; no digest when it says nothing."""

    algorithm: str
    """`sha256` of the content (LFS files), or `git`: SHA-1 of the git blob."""
    digest: str


def verify(directory: Path, checksums: Mapping[str, Checksum], again: Callable[[str], object]) -> None:
    """Compare what has not been compared before. A damaged file is got `again`, once.

    Raises LoadError, and takes the file out of the cache, when it is damaged then as well.
    """
    verified = _read(directory)
    for name, expected in checksums.items():
        file = directory / name
        if not expected.digest or verified.get(name) == _mark(file):
            continue
        if _digest(file, expected.algorithm) != expected.digest:
            log.warning("%s arrived damaged; getting it again", name)
            again(name)
            actual = _digest(file, expected.algorithm)
            if actual != expected.digest:
                for damaged in {file.resolve(), file}:
                    damaged.unlink(missing_ok=True)
                raise LoadError(
                    f"{name} arrived damaged twice: its checksum is {actual}, and the hub says {expected.digest}"
                )
        verified[name] = _mark(file)
    _write(directory, verified)


def is_verified(directory: Path, names: Iterable[str]) -> bool:
    """Whether all of these files were compared, as they are now."""
    verified = _read(directory)
    return all(verified.get(name) == _mark(directory / name) for name in names)


def _digest(file: Path, algorithm: str) -> str:
    if algorithm == "sha256":
        with file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()
    content = file.read_bytes()
    return hashlib.sha1(b"blob %d\0%s" % (len(content), content), usedforsecurity=False).hexdigest()


def _mark(file: Path) -> list[int]:
    """What changes when the file does."""
    state = file.stat()
    return [state.st_size, state.st_mtime_ns]


def _note(directory: Path) -> Path:
    """verified/<commit>.json, beside huggingface_hub's own trees/<commit>.json."""
    return directory.parent.parent / "verified" / f"{directory.name}.json"


def _read(directory: Path) -> dict[str, list[int]]:
    try:
        content = json.loads(_note(directory).read_bytes())
    except (OSError, ValueError):  # none yet, none that can be read: compare again
        return {}
    return content if isinstance(content, dict) else {}


def _write(directory: Path, verified: dict[str, list[int]]) -> None:
    if verified == _read(directory):
        return
    note = _note(directory)
    try:
        note.parent.mkdir(exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=note.parent, delete=False) as stream:
            json.dump(verified, stream)
        os.replace(stream.name, note)
    except OSError as error:  # a read-only cache: the files are compared again at the next start
        log.debug("not noted in %s: %s", note, error)
