"""The log on disk: rotation, a full disk, and readers in the middle of both."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve.deploy import log_lines
from modelserve.deploy.log_file import NAME, LogFile, numbered


def lines(first: int, last: int) -> bytes:
    return b"".join(b"line %07d\n" % number for number in range(first, last))


def test_written_lines_are_there_at_once(tmp_path: Path) -> None:
    log = LogFile(tmp_path)
    log.write(b"a\nb\n")
    assert list(log_lines.read(tmp_path)) == ["a", "b"]
    log.write(b"c\n")
    assert list(log_lines.read(tmp_path, tail=2)) == ["b", "c"]
    log.close()


def test_a_later_process_writes_on(tmp_path: Path) -> None:
    for text in (b"before\n", b"after\n"):
        log = LogFile(tmp_path)
        log.write(text)
        log.close()
    assert list(log_lines.read(tmp_path)) == ["before", "after"]


def test_full_files_are_numbered_on_and_the_oldest_go(tmp_path: Path) -> None:
    log = LogFile(tmp_path, max_bytes=100, files=3)
    for number in range(100):
        log.write(b"line %07d\n" % number)
    log.close()
    full = numbered(tmp_path)
    assert len(full) == 2
    assert min(full) > 5
    assert {path.name for path in tmp_path.iterdir()} == {NAME, *(path.name for path in full.values())}
    kept = list(log_lines.read(tmp_path))
    assert kept == [f"line {number:07d}" for number in range(100 - len(kept), 100)]
    assert 2 * 8 < len(kept) < 3 * 9


@pytest.mark.parametrize("tail", [0, 1, 2, 7, 8, 9, 17, 25, 1000])
def test_the_tail_goes_back_over_full_files(tmp_path: Path, tail: int) -> None:
    log = LogFile(tmp_path, max_bytes=100, files=5)
    for number in range(30):
        log.write(b"line %07d\n" % number)
    log.close()
    everything = [f"line {number:07d}" for number in range(30)]
    assert list(log_lines.read(tmp_path, tail=tail)) == everything[max(0, 30 - tail) :]


def test_nothing_is_a_log_without_lines(tmp_path: Path) -> None:
    assert list(log_lines.read(tmp_path / "nowhere", tail=5)) == []
    LogFile(tmp_path).write(b"")
    assert list(log_lines.read(tmp_path, tail=5)) == []


def test_a_line_that_has_no_end_is_the_last_one(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"one\ntwo \xff\r\nthr")
    assert list(log_lines.read(tmp_path)) == ["one", "two �", "thr"]
    assert list(log_lines.read(tmp_path, tail=1)) == ["thr"]
    assert list(log_lines.read(tmp_path, tail=0)) == []


def test_following_loses_nothing_while_files_change(tmp_path: Path) -> None:
    """A writer that fills a file each few lines, a reader that is as fast as it is, and the end at some moment."""
    log = LogFile(tmp_path, max_bytes=4096, files=1000)
    done = threading.Event()

    def write() -> None:
        for number in range(20_000):
            log.write(b"line %07d\n" % number)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    got = list(log_lines.read(tmp_path, ended=done.is_set))
    writer.join()
    assert len(numbered(tmp_path)) > 20
    assert got == [f"line {number:07d}" for number in range(20_000)]


def test_a_slow_reader_goes_on_with_the_oldest_that_is_left(tmp_path: Path) -> None:
    log = LogFile(tmp_path, max_bytes=100, files=3)
    log.write(b"the first\n")
    over = threading.Event()
    reader: Iterator[str] = log_lines.read(tmp_path, ended=over.is_set)
    assert next(reader) == "the first"
    log.write(lines(0, 8))
    for number in range(8, 100):
        log.write(b"line %07d\n" % number)
    over.set()
    got = list(reader)
    own = [f"line {number:07d}" for number in range(8)]  # in the file that it had open
    assert got[:8] == own
    assert got[8:] == [f"line {number:07d}" for number in range(100 - len(got) + 8, 100)]


def test_a_reader_that_is_left_keeps_nothing_open(tmp_path: Path) -> None:
    log = LogFile(tmp_path, max_bytes=100, files=3)
    log.write(lines(0, 8))
    log.write(lines(8, 16))
    log.close()
    before = len(os.listdir("/proc/self/fd"))
    reader = log_lines.read(tmp_path, ended=lambda: False)
    assert next(reader) == "line 0000000"
    reader.close()  # type: ignore[attr-defined]
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_costs_lines_and_is_told(tmp_path: Path) -> None:
    """In a process of its own, whose files may have 1000 bytes for a while; one line is torn by the limit."""
    program = f"""
import resource
from pathlib import Path
from modelserve.deploy.log_file import LogFile

log = LogFile(Path({str(tmp_path)!r}))
log.write(b"before\\n")
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
for number in range(100):
    log.write(b"line %07d, long enough to meet the limit soon\\n" % number)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
log.write(b"after\\n")
log.write(b"later\\n")
"""
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    kept = list(log_lines.read(tmp_path))
    whole = [line for line in kept if line.endswith("soon")]
    assert whole == [f"line {number:07d}, long enough to meet the limit soon" for number in range(len(whole))]
    torn = kept[1 + len(whole)]
    assert torn.startswith("line ")
    assert kept[0] == "before"
    assert kept[2 + len(whole) :] == [
        f"modelserve: {100 - len(whole)} lines of this log were lost: no room",
        "after",
        "later",
    ]


def test_no_room_for_a_new_file_is_no_error(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "not there yet")
    log.write(b"lost\nlost\n")
    (tmp_path / "not there yet").mkdir()
    log.write(b"kept\n")
    log.close()
    expected = ["modelserve: 2 lines of this log were lost: no room", "kept"]
    assert list(log_lines.read(tmp_path / "not there yet")) == expected
