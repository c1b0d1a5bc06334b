"""A directory that a command writes as a whole: as it was, or as it shall be, and nobody's files are lost.

Knows nothing of what is in them.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

from modelserve.errors import ConfigError


def replace(option: str, directory: Path, files: Mapping[str, str], ours: Callable[[Path], set[str]]) -> None:
    """Make the directory hold just these files: name -> text. option: what named it, for sentences.

    ours: names of the files that an earlier call wrote into it, by its own record there; empty where there is none.
    Raises ConfigError for a place that holds anything else, or cannot be written.
    """
    target = directory.expanduser().resolve()
    try:
        _check(option, directory, target, ours)
        target.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
        try:
            new, old = place / "new", place / "old"
            new.mkdir()  # not mkdtemp's own, which nobody else may read
            for name, text in files.items():
                (new / name).write_text(text, encoding="utf-8")
            _exchange(new, target, old)
        finally:
            shutil.rmtree(place, ignore_errors=True)
    except OSError as error:
        raise ConfigError(f"{option} is {str(directory)!r}, which cannot be written: {error.strerror}") from error


def _check(option: str, said: Path, target: Path, ours: Callable[[Path], set[str]]) -> None:
    if not target.exists():
        return
    if not target.is_dir():
        raise ConfigError(f"{option} is {str(said)!r}, which is a file; name a directory, or one that is to be made")
    if Path.cwd().is_relative_to(target):
        raise ConfigError(f"{option} is {str(said)!r}, where this shell is; name a directory below, which is replaced")
    there = {path.name for path in target.iterdir()}
    if strange := sorted(there - (ours(target) if there else set())):
        raise ConfigError(
            f"{option} is {str(said)!r}, which holds something else: {strange[0]}; name another directory"
        )


def _exchange(new: Path, target: Path, old: Path) -> None:
    """An empty target is replaced at once. A full one steps aside first, and comes back where the new one cannot."""
    if target.exists() and any(target.iterdir()):
        os.rename(target, old)
        try:
            os.rename(new, target)
        except OSError:
            os.rename(old, target)
            raise
    else:
        os.rename(new, target)
