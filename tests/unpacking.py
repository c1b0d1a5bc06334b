"""Unpacks archives that we trust, on every Python that the package runs on."""

from __future__ import annotations

import tarfile
from pathlib import Path


def unpack(archive: Path, directory: Path, kind: str) -> None:
    """kind: of tarfile's filter, "data" or "tar". Python before 3.11.4, such as Debian 12's own, knows none."""
    with tarfile.open(archive) as opened:
        if hasattr(tarfile, f"{kind}_filter"):
            opened.extractall(directory, filter=kind)
        else:
            opened.extractall(directory)
