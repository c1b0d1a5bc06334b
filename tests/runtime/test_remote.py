"""Models from the web and from archives: a real server on loopback, real processes, and all that goes wrong."""

from __future__ import annotations

import base64
import errno
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import httpx2
import pytest

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import cache, remote, transfer, web
from modelserve.runtime.cache import disk_reason
from modelserve.runtime.files import resolve
from modelserve.runtime.source import parse
from tests.models import tiny
from tests.process import serve
from tests.web import File, Web

CONFIG = b'{"model_type": "bert"}'
BIG = os.urandom(3_000_000)
HALF = 1_400_000
LITTLE = 600_000
"""Too little for another try."""

FETCH = """
import json, logging, os, socket, sys
logging.basicConfig(format="%(levelname)s %(message)s", level="INFO")
from modelserve.errors import LoadError
from modelserve.runtime import remote
remote.PAUSES_S = (0.01, 0.01, 0.01)
{before}
progress = []
def told(fraction):
    progress.append(fraction)
    print(json.dumps(fraction), flush=True)
try:
    print(json.dumps({{"path": str(remote.fetch(sys.argv[1], told)), "progress": progress}}))
except LoadError as error:
    print(json.dumps({{"error": error.message}}))
"""
NO_NETWORK = """
def refuse(*_):
    raise AssertionError("the network was asked")
socket.socket.connect = socket.socket.connect_ex = socket.socket.sendto = socket.getaddrinfo = refuse
"""


def packed(files: Mapping[str, bytes] | None = None) -> bytes:
    """A zip with one folder that has a model."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in (files or {"bert/config.json": CONFIG, "bert/model.safetensors": BIG}).items():
            archive.writestr(name, content)
    return made.getvalue()


def start(source: str, before: str = "", env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FETCH.format(before=before), source],
        env=os.environ | {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> dict[str, object]:
    out, log = process.communicate(timeout=100)
    assert process.returncode == 0, log
    answer: dict[str, object] = json.loads(out.splitlines()[-1])
    return answer | {"log": log}


def wait_for(condition: Callable[[], object], timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "it does not happen"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01, 0.01))
    return tmp_path / "home"


@pytest.fixture
def server() -> Iterator[Web]:
    with Web() as server:
        yield server


def fetch(source: str) -> Path:
    return remote.fetch(source, lambda fraction: None)


def refused(source: str) -> str:
    with pytest.raises(LoadError) as caught:
        fetch(source)
    return caught.value.message


def ranges(server: Web) -> list[str | None]:
    return [request.headers.get("range") for request in server.requests]


# What comes out


def test_an_archive_comes_as_the_folder_in_it(server: Web, home: Path) -> None:
    server.put("/models/bert.zip", packed())
    told: list[float] = []
    path = remote.fetch(server.url + "/models/bert.zip", told.append)
    assert {file.name: file.read_bytes() for file in path.iterdir()} == {
        "config.json": CONFIG,
        "model.safetensors": BIG,
    }
    assert path.is_relative_to(home / "models")
    assert told == sorted(told)
    assert told[0] < 0.1
    assert told[-1] == 1.0
    assert [request.method for request in server.requests] == ["GET"]
    assert not list(home.rglob("*.zip")), "the archive takes no space"
    assert fetch(server.url + "/models/bert.zip") == path
    assert server.sent[1:] == [0], "asked whether it changed, and sent nothing"


def test_an_archive_without_a_folder(server: Web) -> None:
    server.put("/bert.zip", packed({"config.json": CONFIG, "1_Pooling/config.json": b"{}"}))
    assert sorted(path.name for path in fetch(server.url + "/bert.zip").iterdir()) == ["1_Pooling", "config.json"]
    server.put("/download", packed())
    assert (fetch(server.url.replace("http", "zip+http") + "/download?id=3") / "config.json").read_bytes() == CONFIG


def test_a_file_keeps_its_name(server: Web) -> None:
    content = packed()  # a zip has its second in it
    server.put("/models/iris%20model.skops", content)
    path = fetch(server.url + "/models/iris%20model.skops")
    assert (path.name, path.read_bytes()) == ("iris model.skops", content)


def test_a_new_version_is_fetched_and_the_old_one_stays_a_while(server: Web) -> None:
    url = server.url + "/model.pkl"
    paths = []
    for number in range(3):
        server.put("/model.pkl", b"%d" % number)
        paths.append(fetch(url))
        assert paths[-1].read_bytes() == b"%d" % number
    assert [path.exists() for path in paths] == [False, True, True], "one that is just being loaded is left"


def test_resolve_takes_it_as_model_dir(server: Web, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "bert"), "gztar", tiny("bert", "fill_mask"))
    server.put("/bert.tar.gz", (tmp_path / "bert.tar.gz").read_bytes())
    told: list[float] = []
    for source in (server.url + "/bert.tar.gz", str(tmp_path / "bert.tar.gz"), f"file://{tmp_path}/bert.tar.gz"):
        files = resolve(Config(model_dir=source), told.append)
        assert files.config["model_type"] == "bert"
        assert told[-1] == 1.0
    for name, content, message in (
        ("model.pkl", b"x", "model.pkl (--model_dir) is no directory"),
        ("two.zip", packed({"a/config.json": b"{}", "b/config.json": b"{}"}), "two.zip, which holds a/, b/"),
    ):
        server.put(f"/{name}", content)
        with pytest.raises(LoadError) as caught:
            resolve(Config(model_dir=f"http://me:hunter2@{server.url[7:]}/{name}?sig=5ec3e7"), told.append)
        assert caught.value.message.endswith(message)
        assert "hunter2" not in caught.value.message
        assert "5ec3e7" not in caught.value.message


# Whether it changed


@pytest.mark.parametrize(
    "file",
    [
        File(BIG, etag='"a"'),
        File(BIG, etag='W/"a"'),
        File(BIG, etag='"a"', conditions=False),
        File(BIG, modified="Wed, 21 Oct 2026 07:28:00 GMT"),
        File(BIG),
    ],
    ids=["etag", "weak", "no conditions", "date", "size only"],
)
def test_what_is_the_same_is_not_fetched_again(server: Web, file: File) -> None:
    server.put("/model.pkl", file)
    path = fetch(server.url + "/model.pkl")
    inode = path.stat().st_ino
    assert fetch(server.url + "/model.pkl") == path
    assert path.stat().st_ino == inode
    assert len(server.requests) == 2


def test_an_older_file_in_its_place_is_fetched(server: Web) -> None:
    for date in ("Wed, 21 Oct 2026 07:28:00 GMT", "Tue, 20 Oct 2026 07:28:00 GMT"):
        server.put("/model.pkl", File(date.encode(), modified=date))
        assert fetch(server.url + "/model.pkl").read_bytes() == date.encode()


def test_a_file_of_the_same_size_and_another_checksum_is_fetched(server: Web) -> None:
    for content in (b"one", b"two"):
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        server.put("/model.pkl", File(content, headers={"Content-MD5": md5}))
        assert fetch(server.url + "/model.pkl").read_bytes() == content


def test_without_a_length(server: Web) -> None:
    server.put("/model.pkl", File(BIG, etag='"a"', length=False))
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG


def test_a_copy_that_was_cut_off_is_fetched_again(server: Web, caplog: pytest.LogCaptureFixture) -> None:
    server.put("/bert.zip", packed())
    weights = fetch(server.url + "/bert.zip") / "model.safetensors"
    weights.write_bytes(BIG[:100])
    assert (fetch(server.url + "/bert.zip") / "model.safetensors").read_bytes() == BIG
    assert "is not whole any more" in caplog.text


# Broken off


def test_a_connection_that_breaks_is_taken_up(server: Web, caplog: pytest.LogCaptureFixture) -> None:
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", cut_after=HALF)
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG
    (first, again), etag = ranges(server), server.files["/model.pkl"].etag
    assert first is None
    assert 0 < int(str(again)[6:-1]) <= HALF
    assert server.requests[1].headers["if-range"] == etag
    assert sum(server.sent) < len(BIG) + HALF / 2
    assert f"{server.url}/model.pkl broke off: " in caplog.text


def test_a_bad_line_brings_a_large_file_in_the_end(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_HEADWAY", 100_000)
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", cut_after=200_000, times=100)
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG
    assert len(server.requests) > 10
    server.put("/model.pkl", BIG[::-1])
    server.fail("/model.pkl", cut_after=20_000, times=100)
    server.requests.clear()
    fetch(server.url + "/model.pkl")  # the copy in the cache
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "file",
    [File(BIG), File(BIG, etag='W/"a"'), File(BIG, etag='"a"', ranges=False)],
    ids=["no mark", "weak mark", "no ranges"],
)
def test_what_cannot_be_taken_up_starts_over(server: Web, file: File) -> None:
    server.put("/model.pkl", file)
    server.fail("/model.pkl", cut_after=HALF)
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG
    assert (ranges(server)[1] is None) == file.ranges


def test_a_file_that_changes_meanwhile_starts_over(server: Web) -> None:
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", hold_after=HALF, cut_after=HALF)
    process = start(server.url + "/model.pkl")
    wait_for(lambda: server.requests)
    server.put("/model.pkl", BIG[::-1])
    server.go_on.set()
    assert Path(str(finish(process)["path"])).read_bytes() == BIG[::-1]
    assert ranges(server)[1] is not None


def test_bytes_that_nobody_can_tell_apart_are_not_taken_up(tmp_path: Path) -> None:
    for mark, kept in (("", 0), ("a", 2)):
        part = cache.Part(tmp_path / f"part{mark}", "it")
        part.begin("model.pkl", cache.Item(3, mark))
        part.file("model.pkl").write_bytes(b"12")
        again = cache.Part(tmp_path / f"part{mark}", "it")
        again.expect({"model.pkl": cache.Item(3, mark)})
        assert again.size("model.pkl") == kept


def test_a_process_that_is_killed_goes_on_where_it_was(server: Web, home: Path) -> None:
    server.put("/bert.zip", packed())
    server.fail("/bert.zip", hold_after=HALF)
    process = start(server.url + "/bert.zip")
    part = home / "models" / parse(server.url + "/bert.zip").label / "part/files/bert.zip"
    wait_for(lambda: part.exists() and part.stat().st_size > HALF / 2)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    here = part.stat().st_size
    path = fetch(server.url + "/bert.zip")
    assert (path / "model.safetensors").read_bytes() == BIG
    assert ranges(server) == [None, f"bytes={here}-"]


@pytest.mark.parametrize("before", ["archive.os.fsync", "cache.os.rename", "cache.shutil.rmtree"])
def test_a_process_that_is_killed_while_it_unpacks_leaves_no_half_model(server: Web, home: Path, before: str) -> None:
    """Killed when the first file is written, before the whole is renamed, and before the archive is removed."""
    server.put("/bert.zip", packed())
    module, function = before.split(".", 1)
    kill = (
        f"from modelserve.runtime import {module}, archive, cache\n"
        "import signal\n"
        "def kill(*_, **__): os.kill(os.getpid(), signal.SIGKILL)\n"
        "unpack = remote.unpack\n"
        f"def then(*a, **k): {'unpack(*a, **k); ' if module == 'cache' else ''}{module}.{function} = kill; "
        f"{'unpack(*a, **k)' if module == 'archive' else ''}\n"
        "remote.unpack = then\n"
    )
    process = start(server.url + "/bert.zip", kill)
    process.communicate(timeout=100)
    assert process.returncode == -signal.SIGKILL
    path = fetch(server.url + "/bert.zip")
    assert {file.name: len(file.read_bytes()) for file in path.iterdir()} == {
        "config.json": len(CONFIG),
        "model.safetensors": len(BIG),
    }
    assert sum(server.sent) == len(packed()), "the archive was here already"
    entry = path.parents[2]
    assert {left.name for left in entry.iterdir()} == {"lock", "1"}


# Several at once


@pytest.mark.slow
def test_two_processes_share_one_download(server: Web) -> None:
    server.put("/bert.zip", packed())
    server.fail("/bert.zip", hold_after=HALF)
    processes = [start(server.url + "/bert.zip") for _ in range(3)]
    wait_for(lambda: server.requests)
    seen = [False] * 3
    for index, process in enumerate(processes):
        assert process.stdout is not None
        seen[index] = 0.3 < _last(process.stdout, until=0.3) <= 1.0
    assert seen == [True] * 3, "those that wait show how far it is"
    assert len(server.requests) == 1
    server.go_on.set()
    answers = [finish(process) for process in processes]
    assert len({str(answer["path"]) for answer in answers}) == 1
    assert server.sent == [len(packed()), 0, 0]
    assert sum("waiting for it" in str(answer["log"]) for answer in answers) == 2


def _last(lines: Iterator[str], until: float) -> float:
    for line in lines:
        if float(line) > until:
            return float(line)
    raise AssertionError("it ended")


@pytest.mark.slow
def test_a_process_that_stands_still_is_not_waited_for_for_ever(
    server: Web, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "_STALLED_S", 0.5)
    monkeypatch.setattr(cache, "_POLL_S", 0.05)
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", hold_after=HALF)
    process = start(server.url + "/model.pkl")
    wait_for(lambda: server.requests)
    message = refused(server.url + "/model.pkl")
    assert message.startswith(f"another process has been fetching {server.url}/model.pkl into {home}/models/model-")
    server.go_on.set()
    finish(process)


# Wrong bytes


def told(kind: str) -> dict[str, str]:
    sha256, md5 = (base64.b64encode(hashlib.new(name, BIG).digest()).decode() for name in ("sha256", "md5"))
    return {
        "x-amz-checksum-sha256": {"x-amz-checksum-sha256": sha256},
        "Content-MD5": {"Content-MD5": md5},
        "x-goog-hash": {"x-goog-hash": f"crc32c=AAAAAA==, md5={md5}"},
        "S3's ETag": {"ETag": f'"{hashlib.md5(BIG).hexdigest()}"', "Server": "AmazonS3"},
        "fragment": {},
    }[kind]


@pytest.mark.parametrize("kind", ["x-amz-checksum-sha256", "Content-MD5", "x-goog-hash", "S3's ETag", "fragment"])
def test_wrong_bytes_are_found(server: Web, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    server.put("/model.pkl", File(BIG, modified="Wed, 21 Oct 2026 07:28:00 GMT", headers=told(kind)))
    url = server.url + "/model.pkl" + (f"#sha256={hashlib.sha256(BIG).hexdigest()}" if kind == "fragment" else "")
    server.fail("/model.pkl", damaged=True)
    assert fetch(url).read_bytes() == BIG
    assert f"{server.url}/model.pkl arrived damaged: its " in caplog.text
    server.put("/other.pkl", server.files["/model.pkl"])
    server.fail("/other.pkl", damaged=True, times=100)
    algorithm = "sha256" if kind in ("x-amz-checksum-sha256", "fragment") else "md5"
    right = hashlib.new(algorithm, BIG).hexdigest()
    message = refused(url.replace("model.pkl", "other.pkl"))
    assert message.startswith(f"{server.url}/other.pkl arrived damaged twice: its {algorithm} is ")
    assert message.endswith(f", and it should be {right}")
    assert len(server.requests) == 4
    server.fail("/other.pkl", times=0)
    assert fetch(url.replace("model.pkl", "other.pkl")).read_bytes() == BIG


def test_wrong_bytes_before_a_break_are_found_after_it(server: Web) -> None:
    server.put("/model.pkl", File(BIG, etag='"a"', headers=told("Content-MD5")))
    server.fail("/model.pkl", cut_after=LITTLE)
    process = start(server.url + "/model.pkl", "remote.PAUSES_S = ()")
    assert "broke off" in str(finish(process)["error"])
    (part,) = Path(os.environ["MODELSERVE_HOME"]).rglob("part/files/model.pkl")
    with part.open("r+b") as stream:
        stream.write(b"wrong")
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG
    assert [bool(asked) for asked in ranges(server)] == [False, True, False]


@pytest.mark.parametrize(
    "headers",
    [
        {"x-amz-checksum-sha256": "AAAA-3"},
        {"Content-MD5": "?"},
        {"ETag": f'"{"0" * 32}"'},
        {"ETag": f'"{"0" * 32}-2"', "Server": "AmazonS3"},
        {"ETag": f'"{"0" * 32}"', "Server": "AmazonS3", "x-amz-server-side-encryption": "aws:kms"},
        {
            "ETag": f'"{"0" * 32}"',
            "Server": "AmazonS3",
            "x-amz-server-side-encryption-customer-algorithm": "AES256",
        },
    ],
)
def test_what_is_no_checksum_is_not_taken_for_one(server: Web, headers: dict[str, str]) -> None:
    server.put("/model.pkl", File(BIG, headers=headers))
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG


def test_a_url_with_a_digest_is_asked_for_once(server: Web) -> None:
    content = packed()
    server.put("/bert.zip", content)
    url = f"{server.url}/bert.zip#sha256={hashlib.sha256(content).hexdigest()}"
    path = fetch(url)
    assert fetch(url) == path
    assert len(server.requests) == 1
    server.stop()
    other = refused(f"{server.url}/bert.zip#sha256={'0' * 64}")
    assert "cannot be reached" in other, "what the cache has is another file"


@pytest.mark.parametrize("content", [b"PK nonsense", packed()[:-500]])
def test_a_damaged_archive_does_not_stay(server: Web, content: bytes) -> None:
    server.put("/bert.zip", content)
    for _ in range(2):
        message = refused(server.url + "/bert.zip")
        assert message.startswith(f"{server.url}/bert.zip is no .zip, .tar.gz or .tgz archive, or it is damaged: ")
    assert len(server.requests) == 2
    server.put("/bert.zip", packed())
    assert (fetch(server.url + "/bert.zip") / "config.json").exists()


def test_an_archive_that_leads_out_leaves_nothing(server: Web, home: Path) -> None:
    server.put("/bert.zip", packed({"bert/config.json": CONFIG, "../../../x": b"x"}))
    assert refused(server.url + "/bert.zip") == (
        f"{server.url}/bert.zip holds '../../../x', which is no path below a model's folder; nothing of it is used"
    )
    assert {path.name for path in home.rglob("*") if path.is_file()} == {"lock"}


# A remote that does not answer, or not well


@pytest.mark.parametrize("status", [500, 503, 429, 408])
def test_errors_that_pass(server: Web, status: int, caplog: pytest.LogCaptureFixture) -> None:
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", status=status, times=3)
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG
    assert f"{server.url}/model.pkl answers {status}; trying again in 0.01 s" in caplog.text


@pytest.mark.parametrize(
    ("status", "message", "asked"),
    [
        (404, "there is nothing at {url} (404)", 1),
        (410, "there is nothing at {url} (410)", 1),
        (
            403,
            "{url} refuses access (403); give a URL with a signature that has not expired, or with user:password@ "
            "before the host",
            1,
        ),
        (400, "{url} answers 400", 1),
        (204, "{url} answers 204", 1),
        (503, "{url} answers 503", 4),
    ],
)
def test_errors_that_do_not(server: Web, status: int, message: str, asked: int) -> None:
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", status=status, times=100)
    assert refused(server.url + "/model.pkl") == message.format(url=f"{server.url}/model.pkl")
    assert len(server.requests) == asked


def test_a_port_where_nobody_listens(server: Web) -> None:
    server.stop()
    assert refused(server.url + "/model.pkl").startswith(f"{server.url}/model.pkl cannot be reached: ")


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1", "nonsense://127.0.0.1"])
def test_a_proxy_that_cannot_be_used(server: Web, monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    assert refused(server.url + "/model.pkl") == (
        "the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is none that can be used"
    )


def test_a_server_that_says_nothing(server: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "_TIMEOUT", httpx2.Timeout(0.1))
    monkeypatch.setattr(remote, "PAUSES_S", (0.01,))
    server.put("/model.pkl", BIG)
    server.fail("/model.pkl", delay_s=0.5, times=100)
    assert refused(server.url + "/model.pkl") == f"{server.url}/model.pkl does not answer in time"
    assert len(server.requests) == 2


@pytest.mark.parametrize("status", [503, 403, 400, None])
def test_the_cache_serves_when_the_remote_does_not(
    server: Web, status: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    server.put("/bert.zip", packed())
    path = fetch(server.url + "/bert.zip")
    if status is None:
        server.stop()
    server.fail("/bert.zip", status=status, times=100)
    server.requests.clear()
    assert fetch(server.url + "/bert.zip") == path
    assert f"; serving the copy in the cache ({path})" in caplog.text
    assert len(server.requests) <= 1


def test_what_is_gone_is_gone(server: Web) -> None:
    server.put("/bert.zip", packed())
    fetch(server.url + "/bert.zip")
    del server.files["/bert.zip"]
    assert refused(server.url + "/bert.zip") == f"there is nothing at {server.url}/bert.zip (404)"


def test_redirects(server: Web) -> None:
    server.put("/bert.zip", packed())
    server.put("/latest.zip", File(b"", location="/bert.zip"))
    server.put("/circle.zip", File(b"", location="/circle.zip"))
    server.put("/elsewhere.zip", File(b"", location="ftp://127.0.0.1/bert.zip"))
    assert (fetch(server.url + "/latest.zip") / "config.json").exists()
    assert refused(server.url + "/circle.zip") == f"{server.url}/circle.zip redirects in a circle"
    assert refused(server.url + "/elsewhere.zip") == (
        f"{server.url}/elsewhere.zip redirects to what is no URL of a web server"
    )


def test_https_stays_https() -> None:
    hops = [httpx2.Response(302, request=httpx2.Request("GET", url)) for url in ("https://a/m.zip", "http://b/m.zip")]
    last = httpx2.Response(200, request=httpx2.Request("GET", "https://c/m.zip"), history=hops)
    place = parse("https://a/m.zip")
    entry = cache.Entry(Path("nowhere"), place.label, place.shown)
    with pytest.raises(transfer.Unreachable, match=r"https://a/m\.zip redirects from https to http, where anybody may"):
        web._body(last, place, entry.part(), None)


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ({"Content-Type": "text/html; charset=utf-8"}, "{url} is a web page and no archive; does it ask for a login?"),
        ({"Content-Encoding": "br"}, "{url} answers in br, and was asked for the file as it is"),
    ],
)
def test_what_is_no_file(server: Web, headers: dict[str, str], message: str) -> None:
    server.put("/bert.zip", File(b"<html>", headers=headers))
    assert refused(server.url + "/bert.zip") == message.format(url=f"{server.url}/bert.zip")


def test_a_server_that_calls_a_tar_gz_encoded(server: Web, tmp_path: Path) -> None:
    shutil.make_archive(str(tmp_path / "bert"), "gztar", tiny("bert", "fill_mask"))
    content = (tmp_path / "bert.tar.gz").read_bytes()
    server.put("/bert.tar.gz", File(content, headers={"Content-Encoding": "x-gzip"}))
    assert (fetch(server.url + "/bert.tar.gz") / "config.json").exists()


@pytest.mark.parametrize("given", ["bytes 0-9/3000000", "bytes 5-9/7", "nonsense", ""])
def test_bytes_that_were_not_asked_for_are_not_used(server: Web, given: str) -> None:
    server.put("/model.pkl", File(BIG, etag='"a"'))
    server.fail("/model.pkl", cut_after=LITTLE)
    process = start(server.url + "/model.pkl", "remote.PAUSES_S = ()")
    assert "broke off" in str(finish(process)["error"])
    server.files["/model.pkl"].wrong_range = given
    assert fetch(server.url + "/model.pkl").read_bytes() == BIG


# Secrets


def test_credentials_are_used_and_not_shown(server: Web, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    caplog.set_level(logging.INFO, "httpx2")
    server.put("/bert.zip", File(packed(), etag='"a"', password="me:hunter2"))
    url = f"http://me:hunter2@{server.url[7:]}/bert.zip?X-Amz-Signature=5ec3e7"
    fetch(url)
    assert server.requests[0].path == "/bert.zip?X-Amz-Signature=5ec3e7"
    server.fail("/bert.zip", status=503, times=100)
    fetch(url)
    messages = [refused(url.replace("hunter2", "5ec3e7").replace("bert", "other"))]
    server.put("/third.zip", File(packed(), password="me:hunter2"))
    messages.append(refused(url.replace("me:hunter2", "me:5ec3e7").replace("bert", "third")))
    messages.append(refused(url.replace("http://", "ftp://")))
    assert "HTTP Request: GET" in caplog.text
    notes = [file.read_text() for file in home.rglob("note.json")]
    paths = [str(path) for path in home.rglob("*")]
    for text in (caplog.text, *messages, *notes, *paths):
        assert "hunter2" not in text
        assert "5ec3e7" not in text


# Offline


@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", pytest.param("TRANSFORMERS_OFFLINE", marks=pytest.mark.slow)])
def test_offline_asks_nothing(server: Web, home: Path, variable: str) -> None:
    server.put("/bert.zip", packed())
    url = server.url + "/bert.zip"
    answer = finish(start(url, NO_NETWORK, {variable: "1"}))
    assert answer["error"] == (
        f"{url} is not in the cache ({home}/models/{parse(url).label}), and HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE "
        "keeps this machine off the network"
    )
    path = fetch(url)
    assert finish(start(url, NO_NETWORK, {variable: "1"}))["path"] == str(path)
    assert len(server.requests) == 1
    process = start(url, NO_NETWORK)
    assert "the network was asked" in process.communicate(timeout=100)[1], "the guard guards"


# The disk


def test_a_disk_that_is_too_small(server: Web, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("/model.pkl", BIG)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9, 1000))
    assert refused(server.url + "/model.pkl").startswith(
        f"the disk is too full for {server.url}/model.pkl: 0.0 GB are needed in {home}/models/"
    )
    assert all(file.stat().st_size == 0 for file in home.rglob("model.pkl"))


def test_a_disk_that_gets_full(server: Web, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server.put("/model.pkl", b"1")
    path = fetch(server.url + "/model.pkl")
    server.put("/model.pkl", b"2")

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert fetch(server.url + "/model.pkl") == path, "what the cache has"
    server.put("/other.pkl", b"2")
    assert refused(server.url + "/other.pkl") == (
        f"the disk of the cache is full ({home}/models); make room, or set MODELSERVE_HOME to another disk"
    )


@pytest.mark.parametrize(
    ("number", "part"),
    [
        (errno.EDQUOT, "the disk of the cache is full (/m)"),
        (errno.EROFS, "the cache (/m) cannot be written; set MODELSERVE_HOME to a directory that can"),
        (errno.EIO, f"the cache (/m) cannot be used: {os.strerror(errno.EIO)}"),
    ],
)
def test_errors_of_the_disk(number: int, part: str) -> None:
    assert disk_reason(OSError(number, os.strerror(number)), Path("/m")).startswith(part)


def test_a_home_that_cannot_be_written(server: Web, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "file"))
    assert refused(server.url + "/model.pkl") == (
        f"the cache ({tmp_path}/file/models) cannot be used: {os.strerror(errno.ENOTDIR)}"
    )
    assert server.requests == []


def test_a_cache_that_cannot_be_written_serves(
    server: Web, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As root reads and writes everything, a lock that cannot be made stands for a read-only volume."""
    server.put("/bert.zip", packed())
    path = fetch(server.url + "/bert.zip")
    (path.parents[2] / "lock").unlink()
    (path.parents[2] / "lock").mkdir()
    assert fetch(server.url + "/bert.zip") == path
    assert "serving the copy in it" in caplog.text


# What is on this machine


def test_local_paths_are_used_where_they_are(tmp_path: Path, home: Path) -> None:
    (tmp_path / "bert").mkdir()
    (tmp_path / "a model.pkl").write_bytes(b"x")
    assert fetch(str(tmp_path / "bert")) == tmp_path / "bert"
    assert fetch(f"file://{tmp_path}/bert") == tmp_path / "bert"
    assert fetch(f"file://{tmp_path}/a%20model.pkl") == tmp_path / "a model.pkl"
    assert refused(str(tmp_path / "nope")) == f"there is no {tmp_path}/nope"
    assert refused(f"file://{tmp_path}/nope.zip") == f"there is no file://{tmp_path}/nope.zip"
    assert not home.exists()


def test_a_local_archive_is_unpacked_once(tmp_path: Path) -> None:
    file = tmp_path / "bert.zip"
    file.write_bytes(packed())
    path = fetch(str(file))
    assert (path / "config.json").read_bytes() == CONFIG
    assert fetch(f"file://{file}") == path
    file.write_bytes(packed({"other/config.json": b"{}"}))
    assert fetch(str(file)).name == "other"
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert fetch(f"file://{file}#sha256={digest}").name == "other"
    assert refused(f"file://{file}#sha256={'0' * 64}") == (
        f"file://{file} has the SHA-256 {digest}, and #sha256= says {'0' * 64}"
    )
    file.write_bytes(b"PK")
    assert "is no .zip, .tar.gz or .tgz archive" in refused(str(file))


# The whole way


@pytest.mark.slow
def test_a_server_of_a_model_on_the_web(server: Web, tmp_path: Path) -> None:
    content = Path(shutil.make_archive(str(tmp_path / "bert"), "zip", tiny("bert", "fill_mask"))).read_bytes()
    server.put("/bert.zip", File(content, etag='"a"', password="me:hunter2"))
    server.fail("/bert.zip", hold_after=len(content) // 2)
    url = f"http://me:hunter2@{server.url[7:]}/bert.zip"
    with serve("--model_dir", url, "--model_name=bert", "--log_level=debug", ready=False) as serving:
        wait_for(lambda: serving.get("/health").json() == {"status": "download"})
        server.go_on.set()
        serving.wait_ready()
        answer = serving.post("/v1/models/bert:predict", json={"instances": ["Paris is the [MASK] of France."]})
        assert answer.status_code == 200
        assert len(answer.json()["predictions"]) == 1
        assert "hunter2" not in serving.get("/info").text + serving.log
    with serve("--model_dir", url, env={"HF_HUB_OFFLINE": "1"}) as serving:
        assert serving.get("/v2/health/ready").status_code == 200
    assert len(server.requests) == 1


def test_a_server_of_a_model_that_is_not_there(server: Web) -> None:
    with serve("--model_dir", server.url + "/bert.zip", ready=False) as serving:
        assert serving.process.wait(60) == 1
        assert f"there is nothing at {server.url}/bert.zip (404)" in serving.log
