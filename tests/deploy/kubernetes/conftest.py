"""A cluster for tests, a home of its own for the store, and functions whose runs go there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import modelserve as ms
from modelserve.deploy import catalog
from tests.deploy.kubernetes.fake import Fake, cluster


@pytest.fixture
def fake() -> Iterator[Fake]:
    with cluster() as found:
        yield found


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """Where nothing is stored yet."""
    for name in ("MODELSERVE_STORE_URL", "MODELSERVE_TARGET", "KUBECONFIG"):
        monkeypatch.delenv(name, raising=False)
    yield move(monkeypatch, tmp_path / "home")
    catalog._store.cache_clear()


def move(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """As on another machine: another store, which is empty."""
    monkeypatch.setenv("MODELSERVE_HOME", str(home))
    return home


@pytest.fixture
def bert(fake: Fake, home: Path, monkeypatch: pytest.MonkeyPatch) -> ms.Function:
    """A function on a machine whose kubeconfig leads to the cluster."""
    monkeypatch.setenv("KUBECONFIG", str(fake.kubeconfig(home.parent / "kubeconfig")))
    return ms.new_function("demo", "bert", "huggingfaceserve", path="hf://google-bert/bert-base-uncased")
