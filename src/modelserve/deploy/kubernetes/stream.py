"""An answer of a cluster that is read while it comes, line by line: a watch, a log that is followed.

Read by one thread; another may end it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from modelserve.deploy.kubernetes import refusal
from modelserve.deploy.kubernetes.place import Place
from modelserve.errors import TargetUnreachable

if TYPE_CHECKING:
    from typing import Self

_CHUNK = 65536


class Stream:
    """Lines without their line ends. A context manager, which gives the connection back."""

    def __init__(self, place: Place, response: Any) -> None:
        """response: urllib3's, not read yet."""
        self._place = place
        self._response = response
        self._over = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._response.close()

    def __iter__(self) -> Iterator[bytes]:
        """Ends where the answer does, or where it was ended. Raises TargetUnreachable where it breaks off."""
        from urllib3.exceptions import HTTPError

        rest = b""
        try:
            for chunk in self._response.stream(_CHUNK, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from lines
        except (HTTPError, OSError) as error:
            if self._over:
                return
            raise TargetUnreachable(refusal.unreachable(self._place, error)) from error
        if rest and not self._over:
            yield rest

    def end(self) -> None:
        """Whoever reads it, reads no further. Any thread."""
        self._over = True
        try:
            self._response.shutdown()
        except (ValueError, OSError, RuntimeError):  # it has ended, or was given back, already
            return
