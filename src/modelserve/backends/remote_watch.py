"""Whether a remote predictor is up: a thread that asks it where there is reason to doubt, until it is well again.

Knows no protocol and no queue. `trouble` is read by any thread.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from modelserve.errors import ModelServeError

log = logging.getLogger(__name__)

PERIOD_S = 5.0
"""Between two looks where nothing is wrong, and after so long a request in flight is a reason for doubt."""
_SOON_S, _LATEST_S = 0.1, 2.0
"""Between two looks while it is down: the first, and the longest, each twice the one before."""


class Watch:
    """Looks after one predictor. always: every few seconds, whether there is doubt or not."""

    def __init__(self, look: Callable[[], None], *, always: bool) -> None:
        """look: raises ModelServeError unless all is well; called by the watch's own thread only."""
        self.trouble = ""
        """Why nothing can be asked now."""
        self._look = look
        self._always = always
        self._in_flight: dict[int, float] = {}
        self._woken = threading.Condition()
        self._doubts = False
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="modelserve-predictor-watch", daemon=True)
        self._thread.start()

    def doubt(self) -> None:
        """Look now: a request has failed."""
        with self._woken:
            self._doubts = True
            self._woken.notify()

    def begin(self) -> None:
        """This thread asks something, from now on."""
        self._in_flight[threading.get_ident()] = time.monotonic()

    def end(self) -> None:
        """This thread has its answer, or none."""
        self._in_flight.pop(threading.get_ident(), None)

    def close(self) -> None:
        with self._woken:
            self._closed = True
            self._woken.notify()

    def wait_closed(self, seconds: float) -> bool:
        """Whether it is closed before so many seconds have passed."""
        deadline = time.monotonic() + seconds
        with self._woken:
            while not self._closed and (left := deadline - time.monotonic()) > 0:
                self._woken.wait(left)
            return self._closed

    def _run(self) -> None:
        pause = PERIOD_S
        while True:
            with self._woken:
                if not (self._doubts or self._closed):
                    self._woken.wait(pause)
                if self._closed:
                    return
                look = self._doubts or self._always or bool(self.trouble) or self._slow()
                self._doubts = False
            if look:
                pause = self._looked(pause)
                self.wait_closed(_SOON_S)  # a crowd whose requests all fail is one reason to look, not hundreds

    def _slow(self) -> bool:
        oldest = min(list(self._in_flight.values()), default=None)
        return oldest is not None and time.monotonic() - oldest > PERIOD_S

    def _looked(self, pause: float) -> float:
        """Look; until when to wait for the next time."""
        trouble = ""
        try:
            self._look()
        except ModelServeError as error:
            trouble = error.message
        except Exception:
            log.exception("looking after the remote predictor failed")
            trouble = "looking after the remote predictor failed; the log says how"
        if trouble and trouble != self.trouble:
            log.warning("%s; nothing is asked until it is well", trouble)
        elif self.trouble and not trouble:
            log.info("the remote predictor is well again")
        before, self.trouble = self.trouble, trouble
        if not trouble:
            return PERIOD_S
        return min(_LATEST_S, 2 * pause) if before else _SOON_S
