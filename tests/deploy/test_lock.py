"""The lock tells who lives: handed over without a gap, freed by any death, not to be kept by a stranger."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from modelserve.deploy.lock import VARIABLE, Lock, is_held, unheld

HOLD = """
import sys, time
from pathlib import Path
from modelserve.deploy.lock import Lock
lock = Lock.take(Path(sys.argv[1]))
print("held" if lock else "not to be had", flush=True)
time.sleep(1000)
"""
INHERIT = """
import os, sys
from pathlib import Path
from modelserve.deploy.lock import Lock, VARIABLE
lock = Lock.inherited(Path(sys.argv[1]))
assert lock is not None and VARIABLE not in os.environ and not os.get_inheritable(lock.fd)
print("held", flush=True)
sys.stdin.read()
lock.free()
print("freed", flush=True)
sys.stdin.close()
import time; time.sleep(1000)
"""


def until_free(path: Path) -> None:
    deadline = time.monotonic() + 10
    while is_held(path):
        assert time.monotonic() < deadline


def test_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    assert not is_held(path)
    assert not path.exists()
    lock = Lock.take(path)
    assert lock is not None
    assert is_held(path)
    begun = time.monotonic()
    assert Lock.take(path, wait_s=0.2) is None
    assert time.monotonic() - begun >= 0.2
    lock.free()
    assert not is_held(path)


def test_who_looks_is_not_in_the_way_of_others_who_look(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.touch()
    with unheld(path) as first, unheld(path) as second:
        assert first
        assert second
        assert Lock.take(path) is None  # nobody begins while somebody judges
    lock = Lock.take(path)
    assert lock is not None
    lock.free()


def test_kill_frees_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        assert is_held(path)
        holder.kill()
        holder.wait()
        until_free(path)


def test_it_is_handed_over_without_a_gap_and_freed_for_all_who_have_a_copy(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.take(path)
    assert lock is not None
    heir = subprocess.Popen(
        [sys.executable, "-c", INHERIT, str(path)],
        env=os.environ | {VARIABLE: str(lock.fd)},
        pass_fds=(lock.fd,),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    copy = os.dup(lock.fd)  # as in a process that was forked while the starter had it
    lock.close()
    with heir:
        try:
            assert heir.stdin is not None
            assert heir.stdout is not None
            assert heir.stdout.readline() == "held\n"
            assert is_held(path)
            heir.stdin.close()
            assert heir.stdout.readline() == "freed\n"
            assert not is_held(path)
        finally:
            os.close(copy)
            heir.kill()


def test_a_deleted_file_is_not_the_lock(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.take(path)
    assert lock is not None
    assert not lock.is_gone(path)
    path.unlink()
    assert lock.is_gone(path)
    other = Lock.take(path)
    assert other is not None
    assert lock.is_gone(path)
    other.free()
    lock.free()


def test_no_lock_was_handed_over(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    assert Lock.inherited(tmp_path / "lock") is None


def test_what_another_has_is_not_inherited(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "lock"
    lock = Lock.take(path)
    assert lock is not None
    with path.open("r+") as another:
        monkeypatch.setenv(VARIABLE, str(another.fileno()))
        assert Lock.inherited(path) is None
    lock.free()
