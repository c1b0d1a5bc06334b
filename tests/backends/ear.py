"""A sink for the tests of engines."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from modelserve.errors import ModelServeError
from modelserve.generation import Finish, Sequence, Token


class Ear:
    """A sink that keeps what it hears."""

    def __init__(self, *, enough: int | None = None, on_put: Callable[[], None] = lambda: None) -> None:
        self.tokens: list[Token] = []
        self.scores: list[Token] = []
        self.finish: Finish | ModelServeError | None = None
        self.ended = threading.Event()
        self.first = threading.Event()
        self.enough, self.on_put = enough, on_put

    def scored(self, tokens: Any) -> None:
        assert not self.tokens
        self.scores = list(tokens)

    def put(self, token: Token) -> bool:
        assert not self.ended.is_set()
        self.tokens.append(token)
        self.first.set()
        self.on_put()
        if self.enough is not None and len(self.tokens) >= self.enough:
            self.ended.set()
            return False
        return True

    def end(self, finish: Finish | ModelServeError) -> None:
        assert not self.ended.is_set()
        self.finish = finish
        self.ended.set()

    @property
    def ids(self) -> list[int]:
        assert self.ended.wait(60), "nobody ended it"
        return [token.id for token in self.tokens]


def ear(one: Sequence) -> Ear:
    assert isinstance(one.sink, Ear)
    return one.sink
