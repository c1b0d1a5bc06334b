"""Models that are served for the length of a module, and a look at the passes that they run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from modelserve.backends.huggingface import HuggingFaceBackend
from modelserve.types import Encoding
from tests.conformance.serving import Serve, Served, start


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serve() -> AsyncIterator[Serve]:
    started: dict[Any, Served] = {}
    async with AsyncExitStack() as stack:

        async def serve(path: Path, **flags: Any) -> Served:
            key = (path, *sorted(flags.items()))
            if key not in started:
                started[key] = await start(stack, path, **flags)
            return started[key]

        yield serve


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The forward passes since the test began: tokens of each text in them."""
    seen: list[list[int]] = []
    forward = HuggingFaceBackend.forward

    def watched(self: HuggingFaceBackend, encodings: Sequence[Encoding], *args: Any, **given: Any) -> list[Any]:
        seen.append([len(encoding) for encoding in encodings])
        return forward(self, encodings, *args, **given)

    monkeypatch.setattr(HuggingFaceBackend, "forward", watched)
    return seen
