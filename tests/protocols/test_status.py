"""Every error has a status of each kind, and the right one."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from modelserve import errors
from modelserve.protocols.status import STATUS, status


def classes(kind: type[errors.ModelServeError]) -> Iterator[type[errors.ModelServeError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from classes(child)


@pytest.mark.parametrize("kind", list(dict.fromkeys(classes(errors.ModelServeError))), ids=lambda kind: kind.__name__)
def test_every_error_has_a_status(kind: type[errors.ModelServeError]) -> None:
    found = status(kind("what was wrong"))
    assert 400 <= found.http < 600
    assert found.grpc in grpc.StatusCode.__members__
    callers_mistake = issubclass(kind, errors.InvalidRequest | errors.NotFound | errors.MethodNotAllowed)
    assert not callers_mistake or found.http < 500


def test_the_table_names_errors_only() -> None:
    assert set(STATUS) <= set(classes(errors.ModelServeError))


def test_a_class_without_a_row_has_its_parents_status() -> None:
    class Special(errors.RequestTooLarge): ...

    assert status(Special("too large")).http == 413
    assert status(errors.LoadError("broken")) == (500, "INTERNAL")
