"""The small files of a run's directory."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from modelserve.deploy import notes
from modelserve.deploy.identity import Identity


def test_a_note_is_read_as_it_was_written(tmp_path: Path) -> None:
    note = notes.Supervisor(identity=Identity(7, 1.5), state="ERROR", message="é")
    notes.write(tmp_path / "note.json", note)
    notes.write(tmp_path / "note.json", note)
    assert notes.read(tmp_path / "note.json", notes.Supervisor) == note
    assert [path.name for path in tmp_path.iterdir()] == ["note.json"]


@pytest.mark.parametrize("text", ["", "{", '{"http_port": "x"}', "[]"])
def test_what_is_no_note_is_none(tmp_path: Path, text: str) -> None:
    assert notes.read(tmp_path / "ports.json", notes.Ports) is None
    (tmp_path / "ports.json").write_text(text)
    assert notes.read(tmp_path / "ports.json", notes.Ports) is None


def test_an_old_look_is_nobodys_present(tmp_path: Path) -> None:
    path = tmp_path / "live.json"
    assert notes.live(path) == notes.Live()
    notes.write(path, notes.Live(written=time.time(), stage="load", progress=0.5))
    assert notes.live(path).stage == "load"
    notes.write(path, notes.Live(written=time.time() - 60, stage="load", progress=0.5))
    assert notes.live(path) == notes.Live()


def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        notes.write(tmp_path / "nowhere" / "live.json", notes.Live())
