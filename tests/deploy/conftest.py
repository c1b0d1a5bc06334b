"""Databases for tests: each test that takes `store_url` runs on SQLite and on PostgreSQL."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy import postgres as servers

os.environ.setdefault("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
"""No test touches the keyring of whoever runs it."""


@pytest.fixture(scope="session")
def postgres() -> Iterator[servers.Postgres]:
    with servers.server() as running:
        yield running


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'home' / 'modelserve.db'}"
        return
    with request.getfixturevalue("postgres").database() as url:
        yield url
