"""Archives from whoever they come: what is in them comes out, and nothing else happens."""

from __future__ import annotations

import io
import os
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from modelserve.errors import LoadError
from modelserve.runtime import archive
from modelserve.runtime.archive import unpack

FILES = {
    "model/config.json": b"{}",
    "model/1_Pooling/config.json": b'{"a": 1}',
    "model/model.safetensors": bytes(3 << 20),
}


def zipped(file: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(file, "w", compression) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return file


def tarred(file: Path, members: dict[str, bytes], mode: str = "w:gz") -> Path:
    with tarfile.open(file, mode) as packed:  # type: ignore[call-overload]
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), 0o4755
            packed.addfile(member, io.BytesIO(content))
    return file


def held(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


@pytest.fixture
def into(tmp_path: Path) -> Iterator[Path]:
    """An empty directory; what lies beside it must not change."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "into").mkdir()
    yield tmp_path / "into"
    assert list(outside.iterdir()) == []
    assert {path.name for path in tmp_path.iterdir() if not path.name.startswith("model.")} == {"into", "outside"}


def refused(file: Path, into: Path) -> str:
    with pytest.raises(LoadError) as caught:
        unpack(file, into, shown="model.zip", progress=lambda fraction: None)
    return caught.value.message


@pytest.mark.parametrize(
    "make",
    [
        zipped,
        lambda file, members: zipped(file, members, zipfile.ZIP_STORED),
        lambda file, members: zipped(file, members, zipfile.ZIP_LZMA),
        tarred,
        lambda file, members: tarred(file, members, "w"),
        lambda file, members: tarred(file, members, "w:bz2"),
        lambda file, members: tarred(file, members, "w:xz"),
    ],
    ids=["zip", "stored", "lzma", "tar.gz", "tar", "bz2", "xz"],
)
def test_what_is_in_it_comes_out(tmp_path: Path, into: Path, make: Callable[..., Path]) -> None:
    told: list[float] = []
    unpack(make(tmp_path / "model.any", FILES), into, shown="it", progress=told.append)
    assert held(into) == FILES
    assert told[-1] == 1.0
    assert all(0 <= fraction <= 1 for fraction in told)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in into.rglob("*") if path.is_file()}
    assert not any(mode & 0o7111 for mode in modes), "neither executable nor setuid"


def test_what_macos_adds_is_left_out(tmp_path: Path, into: Path) -> None:
    members = {
        "__MACOSX/model/._config.json": b"x",
        ".DS_Store": b"x",
        "model/.DS_Store": b"x",
        "model/config.json": b"{}",
    }
    unpack(zipped(tmp_path / "model.zip", members), into, shown="it", progress=lambda fraction: None)
    assert held(into) == {"model/config.json": b"{}"}


def test_names_as_windows_writes_them(tmp_path: Path, into: Path) -> None:
    unpack(zipped(tmp_path / "model.zip", {"model\\config.json": b"{}"}), into, shown="it", progress=lambda _: None)
    assert held(into) == {"model/config.json": b"{}"}


@pytest.mark.parametrize("make", [zipped, tarred])
@pytest.mark.parametrize(
    "name",
    ["../outside/x", "model/../../outside/x", "/tmp/outside", "..\\outside\\x", "C:\\x", "C:x", "\\\\host\\x", "a\nb"],
)
def test_paths_that_lead_out(tmp_path: Path, into: Path, make: Callable[..., Path], name: str) -> None:
    message = refused(make(tmp_path / "model.any", {"config.json": b"{}", name: b"x"}), into)
    assert message == f"model.zip holds {name!r}, which is no path below a model's folder; nothing of it is used"


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE])
def test_links_and_devices_of_a_tar(tmp_path: Path, into: Path, kind: bytes) -> None:
    file = tmp_path / "model.tar"
    with tarfile.open(file, "w") as packed:
        link = tarfile.TarInfo("model")
        link.type, link.linkname = kind, str(tmp_path / "outside")
        packed.addfile(link)
        through = tarfile.TarInfo("model/x")
        through.size = 1
        packed.addfile(through, io.BytesIO(b"x"))
    assert refused(file, into) == "model.zip holds a link or device ('model'), and only files and folders are unpacked"
    assert held(into) == {}


def test_links_of_a_zip(tmp_path: Path, into: Path) -> None:
    file = tmp_path / "model.zip"
    with zipfile.ZipFile(file, "w") as packed:
        link = zipfile.ZipInfo("model")
        link.external_attr = (stat.S_IFLNK | 0o777) << 16
        packed.writestr(link, str(tmp_path / "outside"))
        packed.writestr("model/x", b"x")
    assert refused(file, into) == "model.zip holds a link ('model'), and only files and folders are unpacked"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a", "a"), ("a", "a/b"), ("a/b", "a")])
def test_two_things_of_one_name(tmp_path: Path, into: Path, names: tuple[str, str]) -> None:
    with zipfile.ZipFile(tmp_path / "model.zip", "w") as packed:
        for name in names:
            packed.writestr(name, b"x")
    assert refused(tmp_path / "model.zip", into) == f"model.zip holds {names[1]!r} twice"


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_much(tmp_path: Path, into: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_BYTES", 50_000_000)
    bomb = make(tmp_path / "model.any", {"zeros": bytes(50_000_001)})
    assert bomb.stat().st_size < 100_000
    assert refused(bomb, into) == "model.zip holds more than 0.1 GB, which is what it may take on this disk"
    assert held(into) == {}


@pytest.mark.parametrize("make", [zipped, tarred])
def test_too_many(tmp_path: Path, into: Path, make: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_FILES", 100)
    many = make(tmp_path / "model.any", {f"{number}": b"" for number in range(101)})
    assert refused(many, into) == "model.zip holds more than 100 files, so it is no model"
    assert len(held(into)) == 100


def test_a_zip_that_lies_about_a_size(tmp_path: Path, into: Path) -> None:
    """The bound is on the sizes that are declared, so no more than those may come out."""
    file = zipped(tmp_path / "model.zip", {"zeros": bytes(1_000_000)})
    content = bytearray(file.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 22), (b"PK\x01\x02", 24)):
        struct.pack_into("<I", content, content.index(signature) + offset, 10)
    file.write_bytes(content)
    assert refused(file, into).startswith("model.zip is no .zip, .tar.gz or .tgz archive, or it is damaged: ")
    assert sum(map(len, held(into).values())) <= 10


@pytest.mark.parametrize("content", [b"12", b"1234"])
def test_no_more_and_no_less_than_was_declared(tmp_path: Path, content: bytes) -> None:
    member = archive._Member("x", 3, "file", lambda: io.BytesIO(content))
    with pytest.raises(EOFError, match="x should have 3 bytes"):
        archive._copy(member, tmp_path / "x", lambda: None)
    assert (tmp_path / "x").stat().st_size <= 3


def damaged(content: bytes) -> bytes:
    middle = len(content) // 2
    return content[:middle] + bytes(byte ^ 0xFF for byte in content[middle : middle + 9]) + content[middle + 9 :]


@pytest.mark.parametrize("make", [zipped, tarred, lambda file, members: tarred(file, members, "w:bz2")])
@pytest.mark.parametrize("harm", [damaged, lambda content: content[:-30], lambda content: content[: len(content) // 2]])
def test_damaged(tmp_path: Path, into: Path, make: Callable[..., Path], harm: Callable[[bytes], bytes]) -> None:
    file = make(tmp_path / "model.any", {"a": os.urandom(200_000), "b": os.urandom(200_000)})
    file.write_bytes(harm(file.read_bytes()))
    assert refused(file, into).startswith("model.zip is no .zip, .tar.gz or .tgz archive, or it is damaged: ")


@pytest.mark.parametrize("content", [b"", b"PK", b"<html>not found</html>"])
def test_no_archive_at_all(tmp_path: Path, into: Path, content: bytes) -> None:
    (tmp_path / "model.zip").write_bytes(content)
    assert refused(tmp_path / "model.zip", into).startswith("model.zip is no .zip, .tar.gz or .tgz archive")


@pytest.mark.parametrize("make", [zipped, tarred, lambda file, members: file.write_bytes(bytes(10_000)) and file])
def test_an_empty_archive(tmp_path: Path, into: Path, make: Callable[..., Path]) -> None:
    assert refused(make(tmp_path / "model.any", {}), into) == "model.zip is an empty archive"


def test_a_zip_with_a_password(tmp_path: Path, into: Path) -> None:
    file = zipped(tmp_path / "model.zip", {"a": b"secret"})
    content = bytearray(file.read_bytes())
    content[6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    file.write_bytes(content)
    assert "encrypted" in refused(file, into)
