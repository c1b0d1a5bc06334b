"""A tiny Llama and its conversion to OpenVINO, unpacked once per machine from what tools/openvino_model.py has made."""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.models import CACHE
from tests.unpacking import unpack

ARCHIVE = Path(__file__).parent / "data" / "openvino-llama.tar.gz"


@cache
def converted() -> tuple[Path, Path]:
    """(the model as transformers loads it, its conversion)."""
    directory = CACHE / f"openvino-{sha256(ARCHIVE.read_bytes()).hexdigest()[:16]}"
    if not directory.is_dir():
        CACHE.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=CACHE))
        try:
            unpack(ARCHIVE, building, "data")
            os.replace(building, directory)
        except OSError:
            if not directory.is_dir():  # another process was faster
                raise
        finally:
            shutil.rmtree(building, ignore_errors=True)
    return directory / "source", directory / "converted"
