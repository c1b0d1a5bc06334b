"""The server that most of these tests attack; it must outlive them all."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.models import tiny
from tests.process import Server, serve


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """Tiny BERT's embeddings under the name `m`, with every limit at its default."""
    with serve("--model_dir", tiny("bert"), "--model_name=m") as server:
        yield server
        assert server.get("/v2/health/ready").status_code == 200
        assert "Traceback" not in server.log
