from __future__ import annotations

import linecache
import os
import platform
from pathlib import Path

import pytest

from modelserve.config import Config
from modelserve.runtime import huggingface, texts
from tests.models import tiny

CACHES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")


@pytest.mark.parametrize(
    ("dtype", "machine", "kept"),
    [
        (None, "x86_64", "16"),
        ("float32", "x86_64", "16"),
        ("bfloat16", "x86_64", None),  # every product is oneDNN's there, and takes longer to compile
        (None, "aarch64", None),
    ],
)
def test_few_compiled_products_are_kept_where_they_are_cheap(
    monkeypatch: pytest.MonkeyPatch, dtype: str | None, machine: str, kept: str | None
) -> None:
    for name in CACHES:
        monkeypatch.setenv(name, "to be undone")
        monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(texts, "load", lambda *known: known)
    path = tiny("bert", "text_embedding")
    linecache.getlines(str(Path(__file__)))
    huggingface.load(Config(model_dir=str(path), dtype=dtype), path, lambda stage, fraction: None)
    assert [os.environ.get(name) for name in CACHES] == [kept, kept]
    assert not linecache.cache
