"""Processes are known by more than their number."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import msgspec
import psutil
import pytest

from modelserve.deploy.identity import Identity, kill_marked, marked

SLEEP = [sys.executable, "-c", "import time; time.sleep(1000)"]
MARK = "MODELSERVE_TEST_MARK"


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(SLEEP)
    yield process
    process.kill()
    process.wait()


def test_a_process_is_itself(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    assert msgspec.json.decode(msgspec.json.encode(identity), type=Identity) == identity
    process = identity.process()
    assert process is not None
    assert process.pid == sleeper.pid
    assert Identity.own().pid == os.getpid()


def test_another_process_with_the_number_is_not_it(sleeper: subprocess.Popen[bytes]) -> None:
    own = Identity.of(sleeper.pid)
    reused = Identity(sleeper.pid, own.started - 1)
    assert reused.process() is None
    assert not reused.signal(signal.SIGKILL)
    assert sleeper.poll() is None
    assert own.signal(signal.SIGKILL)
    assert sleeper.wait(10) == -signal.SIGKILL


def test_one_that_has_ended_is_gone_even_before_its_parent_knows(sleeper: subprocess.Popen[bytes]) -> None:
    identity = Identity.of(sleeper.pid)
    sleeper.kill()
    deadline = time.monotonic() + 10
    while psutil.Process(sleeper.pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
    assert identity.process() is None
    sleeper.wait()
    assert identity.process() is None
    with pytest.raises(psutil.NoSuchProcess):
        Identity.of(sleeper.pid)


def test_marked_processes_are_found_in_any_session_and_with_any_parent() -> None:
    """The middle one ends at once: its child has another parent and a session of its own."""
    program = (
        "import subprocess, sys;"
        "subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(1000)'], start_new_session=True)"
    )
    value = f"{os.getpid()}-{time.monotonic()}"
    subprocess.run([sys.executable, "-c", program], env=os.environ | {MARK: value}, check=True)
    (found,) = marked(MARK, value)
    assert found.cmdline()[:2] == SLEEP[:2]
    assert marked(MARK, value + "0") == []
    assert kill_marked(MARK, value, 10) == 1
    assert marked(MARK, value) == []
    assert kill_marked(MARK, value, 10) == 0
