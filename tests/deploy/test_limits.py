"""The bound on memory: with this machine's kernel where it lets us make a cgroup, and where one is looked for."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelserve.deploy import limits
from modelserve.deploy.limits import Place

TAKE = "import sys; print('ready', flush=True); sys.stdin.readline(); block = bytearray({} * 2**20); print('taken')"


@pytest.fixture
def name() -> Iterator[str]:
    name = f"modelserve-test-{os.getpid()}"
    yield name
    for place in limits._places():
        assert not (place.directory / name).exists()


def take(mebibytes: int) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", TAKE.format(mebibytes)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_the_kernel_holds_a_process_to_it(name: str) -> None:
    for mebibytes, status, kills in ((1, 0, 0), (300, -9, 1)):
        with take(mebibytes) as process:
            try:
                cgroup = limits.enclose(process.pid, 100 * 2**20, name)
            except OSError as error:
                process.kill()
                pytest.skip(f"no cgroup can be made here: {error}")
            assert not limits.remove(cgroup.directory)
            process.communicate("go\n", timeout=30)
            assert process.returncode == status
            assert cgroup.oom_kills() == kills
            assert limits.remove(cgroup.directory)
            assert limits.remove(cgroup.directory)


def test_without_a_place_there_is_a_reason(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="this machine has no cgroup for memory"):
        limits.enclose(os.getpid(), 1, "x", [])
    refused = Place(tmp_path / "nowhere", "memory.max", (), "memory.events")
    with pytest.raises(OSError, match="nowhere"):
        limits.enclose(os.getpid(), 1, "x", [refused])


def test_the_next_place_is_tried(tmp_path: Path) -> None:
    """Plain files in place of a cgroup's: what is written, and where."""
    (tmp_path / "other").mkdir()
    places = [
        Place(tmp_path / "nowhere", "memory.max", (), "memory.events"),
        Place(tmp_path / "other", "memory.max", (("memory.swap.max", "0"), ("both", None)), "memory.events"),
    ]
    made = limits.enclose(42, 1000, "run", places).directory
    assert made == tmp_path / "other" / "run"
    written = {path.name: path.read_text() for path in made.iterdir()}
    assert written == {"memory.max": "1000", "memory.swap.max": "0", "both": "1000", "cgroup.procs": "42"}


@pytest.mark.parametrize(
    ("cgroup", "mounts", "handing_on", "expected"),
    [
        # systemd on cgroup v2: the user's slice hands memory on, our own scope has processes and does not
        (
            "0::/user.slice/user@1000.service/app.slice/me.scope",
            "cg - cgroup2 cgroup rw",
            ["user.slice", "user.slice/user@1000.service/app.slice"],
            ["user.slice/user@1000.service/app.slice", "user.slice"],
        ),
        # a container that sees its own cgroup as the root, which does not hand memory on
        ("0::/", "cg - cgroup2 cgroup rw", [], []),
        # the root itself does
        ("0::/init.scope", "cg - cgroup2 cgroup rw", [""], [""]),
        # v1: below our own
        ("5:memory:/us\n0::/", "cg - cgroup cgroup rw,memory", [], ["us"]),
        ("5:cpu,memory:/us", "cg - cgroup cgroup rw,memory,cpu", [], ["us"]),
    ],
)
def test_where_one_is_looked_for(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    cgroup: str,
    mounts: str,
    handing_on: list[str],
    expected: list[str],
) -> None:
    point = tmp_path / "cg"
    for path in cgroup.splitlines():
        (point / path.rpartition(":")[2].lstrip("/")).mkdir(parents=True, exist_ok=True)
    for directory in (point, *point.rglob("*")):
        inside = "" if directory == point else str(directory.relative_to(point))
        (directory / "cgroup.subtree_control").write_text("memory pids" if inside in handing_on else "pids")
    (tmp_path / "cgroup").write_text(cgroup + "\n")
    (tmp_path / "mountinfo").write_text(f"36 25 0:31 / {point} rw - {mounts.removeprefix('cg - ')}\n")
    monkeypatch.setattr(limits, "_PROC", tmp_path)
    found = [str(place.directory.relative_to(point)) for place in limits._places()]
    assert found == [path or "." for path in expected]
