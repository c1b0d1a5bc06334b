"""Ends this server with the process that started it: MODELSERVE_PARENT_FD is the read end of a pipe whose write end
only that process has, so that it reads end of file when that is gone, however it went.

Knows neither. One daemon thread, which waits.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time

from modelserve.environment import PARENT_FD

log = logging.getLogger("modelserve")

_GRACE_S = 10.0
"""Beyond --shutdown_timeout. With --workers, that process kills its workers 5 s after it."""


def end_with_it(shutdown_timeout_s: float) -> None:
    """Begin to watch; does nothing in a process that nobody keeps. Not for its children: they are this one's."""
    said = os.environ.pop(PARENT_FD, None)
    if said is not None:
        os.set_inheritable(int(said), False)
        bound_s = shutdown_timeout_s + _GRACE_S
        threading.Thread(target=_watch, args=(int(said), bound_s), name="parent", daemon=True).start()


def _watch(fd: int, bound_s: float) -> None:
    while os.read(fd, 1):
        pass
    log.warning("the process that keeps this server is gone; draining")
    os.kill(os.getpid(), signal.SIGTERM)  # drains; before there is anything to drain, it ends the process
    time.sleep(bound_s)
    os._exit(1)
