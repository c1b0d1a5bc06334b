"""Hands what several threads have over to one, which may be slow: they wait then, and nothing is kept without a bound.

Knows no log.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Funnel(Generic[T]):
    """Open until `end`."""

    def __init__(self, room: int) -> None:
        """room: the most that waits to be taken."""
        self._room = room
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._error: BaseException | None = None
        self._woken = False
        self._over = False

    @property
    def over(self) -> bool:
        return self._over

    def put(self, item: T) -> bool:
        """Waits for room; whether there will be somebody to take it."""
        with self._changed:
            self._changed.wait_for(lambda: len(self._items) < self._room or self._over)
            if self._over:
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def fail(self, error: BaseException) -> None:
        """Raised by `take`, after what was put before; the first of several."""
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wake(self) -> None:
        """Have `take` return, now or the next time, though there may be nothing."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def take(self, timeout_s: float) -> list[T]:
        """All that waits; [] after so long, or when it was woken."""
        with self._changed:
            self._changed.wait_for(lambda: self._items or self._error or self._woken, timeout_s)
            self._woken = False
            if not self._items and self._error is not None:
                raise self._error
            taken = list(self._items)
            self._items.clear()
            self._changed.notify_all()
            return taken

    def pause(self, seconds: float) -> None:
        """So long, or until nobody takes any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._over, seconds)

    def end(self) -> None:
        """Nobody takes any more."""
        with self._changed:
            self._over = True
            self._items.clear()
            self._changed.notify_all()
