"""A model's file or folder on this machine, from wherever it is: a path, a URL, an archive behind either.

What comes from elsewhere or was packed lies in $MODELSERVE_HOME/models, one folder a source (cache.py). Knows no task
and no kind of model. Blocks; runs in the load thread. Several processes may ask for the same source.
"""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable
from pathlib import Path

from huggingface_hub import is_offline_mode

from modelserve import environment
from modelserve.errors import LoadError
from modelserve.runtime.archive import unpack
from modelserve.runtime.cache import Copy, Entry, Item, disk_reason
from modelserve.runtime.source import Source, is_archive, is_url, parse
from modelserve.runtime.transfer import PAUSES_S, Unreachable, digest
from modelserve.urls import shown

__all__ = ["fetch", "is_fetched", "is_url", "shown"]

log = logging.getLogger(__name__)

_DOWNLOADED = 0.9
"""Share of the bar that the download of an archive has, before it is unpacked."""


def is_fetched(source: str) -> bool:
    """Whether `fetch` makes a model's directory of it; any other is a local directory, or is meant to be one."""
    return "://" in source or (is_archive(source) and Path(source).expanduser().is_file())


def fetch(source: str, progress: Callable[[float], None]) -> Path:
    """The file or folder that `source` names, on this machine.

    source: a local path; file://; http(s):// of one file; s3:// (or another of source.BUCKETS) of a file or a folder. A
    .zip, .tar.gz or .tgz comes out as the folder that it holds. progress: told the fraction that is here. A remote is
    asked whether what the cache has is current; when it cannot be asked, the cache serves, with a warning. Offline
    (HF_HUB_OFFLINE, TRANSFORMERS_OFFLINE) nothing is asked. Raises LoadError.
    """
    place = parse(source)
    try:
        models = environment.home() / "models"
    except RuntimeError as error:
        raise LoadError("this user has no home directory; set MODELSERVE_HOME to a directory for models") from error
    entry = Entry(models, place.label, place.shown)
    progress = _seldom(progress)
    try:
        path = _from_elsewhere(place, entry, progress) if place.scheme else _from_here(place, entry, progress)
    except OSError as error:
        raise LoadError(disk_reason(error, models)) from error
    progress(1.0)
    return path


def _seldom(progress: Callable[[float], None]) -> Callable[[float], None]:
    """Told again when it is another thousandth: bytes come in pieces of some kB."""
    told = -1

    def tell(fraction: float) -> None:
        nonlocal told
        if told != (told := int(fraction * 1000)):
            progress(fraction)

    return tell


def _from_here(place: Source, entry: Entry, progress: Callable[[float], None]) -> Path:
    """A local path; an archive is unpacked once, and again when it has changed."""
    if place.path.is_dir() and not place.sha256:
        return place.path
    if not place.path.is_file():
        raise LoadError(f"there is no {place.shown}")
    try:
        with place.path.open("rb"):
            state = place.path.stat()
        if place.sha256 and (actual := digest(place.path, "sha256")) != place.sha256:
            raise LoadError(f"{place.shown} has the SHA-256 {actual}, and #sha256= says {place.sha256}")
    except OSError as error:
        raise LoadError(f"{place.shown} cannot be read: {error.strerror}") from error
    if not place.packed:
        return place.path
    items = {place.name: Item(state.st_size, str(state.st_mtime_ns))}
    if (copy := _same(entry, items)) is not None:  # a cache that cannot be written serves too
        return copy.path
    with entry.lock(progress):
        copy = _same(entry, items) or _unpack(entry, place.path, items, place, progress)
    return copy.path


def _same(entry: Entry, items: dict[str, Item]) -> Copy | None:
    copy = entry.current()
    return copy if copy is not None and copy.note.items == items else None


def _from_elsewhere(place: Source, entry: Entry, progress: Callable[[float], None]) -> Path:
    copy = _usable(entry, place)
    if copy is not None and place.sha256:  # its content cannot have changed
        return copy.path
    if is_offline_mode():
        if copy is None:
            raise LoadError(
                f"{place.shown} is not in the cache ({entry.directory}), and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE "
                "keeps this machine off the network"
            )
        return copy.path
    try:
        with entry.lock(progress):
            return _current(place, entry, progress).path
    except Unreachable as error:
        copy = _usable(entry, place)
        if copy is None:
            raise LoadError(str(error)) from error
        log.warning("%s; serving the copy in the cache (%s)", error, copy.path)
    except OSError as error:
        if copy is None:
            raise
        log.warning("%s; serving the copy in it", disk_reason(error, entry.directory.parent))
    return copy.path


def _current(place: Source, entry: Entry, progress: Callable[[float], None]) -> Copy:
    """What the remote has now. The caller holds the lock."""
    copy = _usable(entry, place)
    part = entry.part()
    if copy is not None and copy.note.items == part.items:  # killed before it was removed
        part.clear()
        part = entry.part()
    # Imported here: httpx2 and fsspec take a while, and a local directory needs neither.
    module = importlib.import_module(f"modelserve.runtime.{'web' if place.scheme.startswith('http') else 'bucket'}")
    share = _DOWNLOADED if place.packed else 1.0
    pauses_s = () if copy is not None else PAUSES_S
    if not module.bring(place, part, copy, lambda fraction: progress(share * fraction), pauses_s):
        assert copy is not None, "only a copy can be what the remote has. This is a bug."
        return copy
    if not place.packed:
        root = place.name if list(part.items) == [place.name] else ""
        return entry.publish(part.file(""), part.items, root=root, sha256=place.sha256)
    return _unpack(
        entry, part.file(place.name), part.items, place, lambda fraction: progress(share + (1 - share) * fraction)
    )


def _unpack(
    entry: Entry, archive: Path, items: dict[str, Item], place: Source, progress: Callable[[float], None]
) -> Copy:
    """A whole copy of what an archive holds."""
    with entry.unpacking() as files:
        try:
            unpack(archive, files, shown=place.shown, progress=progress)
        except LoadError:
            entry.part().clear()  # or a damaged one would stay
            raise
        top = list(files.iterdir())
        root = top[0].name if len(top) == 1 and top[0].is_dir() else ""
        return entry.publish(files, items, root=root, sha256=place.sha256)


def _usable(entry: Entry, place: Source) -> Copy | None:
    """The copy in the cache, unless the URL says that another file is wanted."""
    copy = entry.current()
    return copy if copy is not None and place.sha256 in (None, copy.note.sha256) else None
