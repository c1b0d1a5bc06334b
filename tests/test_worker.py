"""The board that worker processes share."""

from __future__ import annotations

from pathlib import Path

from modelserve.worker import Board, Worker, variables


def test_two_processes_see_one_board(tmp_path: Path) -> None:
    here, there = Board(tmp_path / "board", 2), Board(tmp_path / "board", 2)
    here.write(0, ready=True)
    assert there.ready(0)
    assert not there.ready(1)
    assert there.silent_s(0) < 5


def test_once_complete_a_restart_does_not_make_it_unready(tmp_path: Path) -> None:
    board = Board(tmp_path / "board", 2)
    board.write(0, ready=True)
    assert not board.complete()
    board.write(1, ready=True)
    assert board.complete()
    board.write(1, ready=False)
    assert board.complete()


def test_a_worker_is_made_by_its_environment(monkeypatch, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    assert Worker.from_environment() is None
    fields = {"INDEX": 1, "COUNT": 2, "GRPC_PORT": 5, "ACCEPTS_AT_ONCE": 0, "HTTP_FD": 3, "PARENT_FD": 4}
    for name, value in variables(**fields, BOARD=tmp_path / "board").items():
        monkeypatch.setenv(name, value)
    worker = Worker.from_environment()
    assert worker is not None
    assert (worker.index, worker.grpc_port, worker.accepts_at_once) == (1, 5, False)
