"""`modelserve supervise KEY`: the process that keeps one run's server, and belongs to nobody who may go away.

Its lock says that it lives, its logs what it does; keeper.py has what it does.
"""

from __future__ import annotations

import logging

from modelserve.deploy import notes
from modelserve.deploy.keeper import Keeper
from modelserve.deploy.lock import Lock
from modelserve.deploy.log_file import LogFile
from modelserve.deploy.reference import parse_key
from modelserve.errors import ConfigError, TargetError

log = logging.getLogger("modelserve.supervise")

_FORMAT = "%(asctime)s %(levelname)s %(name)s %(message)s"


def main(key: str) -> int:
    """Keep the run of this key until it is stopped or fails; the exit status, 1 when it has failed.

    Raises ConfigError for what is no run's key, TargetError when the run is kept by another process.
    """
    run = parse_key(key)
    if run.type != "run":
        raise ConfigError(f"{key!r} is the key of a {run.type}; supervise takes a run's")
    files = notes.Files(run.id)
    files.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = Lock.inherited(files.lock) or Lock.take(files.lock)
    if lock is None:
        raise TargetError(f"the run {run.id} is kept by another process already")
    output = LogFile(files.directory)
    _configure_logging(output)
    end = Keeper(run, files, lock, output).run()
    lock.free()
    return int(end is not None and end.state == "ERROR")


class _Both(logging.Handler):
    """What the supervisor does is in the server's log, too, where a person looks for it."""

    def __init__(self, output: LogFile) -> None:
        super().__init__()
        self._output = output

    def emit(self, record: logging.LogRecord) -> None:
        self._output.write(self.format(record).encode() + b"\n")


def _configure_logging(output: LogFile) -> None:
    """supervisor.log is this process's stderr."""
    logging.basicConfig(level=logging.INFO, format=_FORMAT)
    both = _Both(output)
    both.setFormatter(logging.Formatter(_FORMAT))
    log.addHandler(both)
