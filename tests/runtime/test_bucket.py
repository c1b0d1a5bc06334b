"""Models in an S3 (moto's server, a process of its own), with a relay before it that sees and spoils what is said."""

from __future__ import annotations

import base64
import hashlib
import io
import os
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import _registry

from modelserve.config import Config
from modelserve.errors import LoadError
from modelserve.runtime import bucket, remote
from modelserve.runtime.files import resolve
from modelserve.runtime.source import parse
from tests.models import tiny
from tests.runtime.test_remote import FETCH, NO_NETWORK, finish, wait_for
from tests.web import S3, Web, s3

BIG = os.urandom(1_000_000)
BLOCK = 100_000
FILES = {"config.json": b"{}", "1_Pooling/config.json": b'{"a": 1}', "model.safetensors": BIG}

START = "from modelserve.runtime import bucket; bucket._BLOCK = 100_000; bucket._STREAMS = 2"


@pytest.fixture(scope="module")
def store() -> Iterator[S3]:
    with s3() as store:
        yield store


@pytest.fixture
def relay(store: S3) -> Iterator[Web]:
    """Between us and the store; `requests` is what was asked."""
    with Web(before=store.url) as relay:
        yield relay


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, store: S3, relay: Web) -> Path:
    for name, value in (store.environment | {"AWS_ENDPOINT_URL": relay.url, "NO_PROXY": "127.0.0.1"}).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(remote, "PAUSES_S", (0.01, 0.01, 0.01))
    monkeypatch.setattr(bucket, "_BLOCK", BLOCK)
    monkeypatch.setattr(bucket, "_STREAMS", 2)
    return tmp_path / "home"


@pytest.fixture
def models(store: S3, request: pytest.FixtureRequest) -> str:
    """A bucket of a test's own, with a model in bert/."""
    name = f"models-{hashlib.sha1(request.node.name.encode(), usedforsecurity=False).hexdigest()[:20]}"
    store.bucket(name)
    for path, content in FILES.items():
        store.put(f"{name}/bert/{path}", content)
    return name


def start(url: str, before: str = START, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", FETCH.format(before=before), url],
        env=os.environ | {"HF_HUB_OFFLINE": "", "TRANSFORMERS_OFFLINE": ""} | (env or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def fetch(url: str) -> Path:
    return remote.fetch(url, lambda fraction: None)


def refused(url: str) -> str:
    with pytest.raises(LoadError) as caught:
        fetch(url)
    return caught.value.message


def held(directory: Path) -> dict[str, bytes]:
    return {
        path.relative_to(directory).as_posix(): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


def got(relay: Web, name: str = "model.safetensors") -> list[int]:
    """First byte of each request for the file's content."""
    return sorted(
        int(request.headers["range"][6:].split("-")[0])
        for request in relay.requests
        if request.method == "GET" and request.path.endswith(f"/{name}")
    )


@pytest.mark.parametrize("end", ["bert", pytest.param("bert/", marks=pytest.mark.slow)])
def test_a_folder(models: str, store: S3, relay: Web, home: Path, end: str) -> None:
    store.put(f"{models}/bert/", b"")  # what consoles make for a folder
    store.put(f"{models}/bert-other/config.json", b"{}")
    told: list[float] = []
    path = remote.fetch(f"s3://{models}/{end}", told.append)
    assert held(path) == FILES
    assert path.is_relative_to(home / "models")
    assert told == sorted(told)
    assert len(told) > 4
    assert told[-1] == 1.0
    assert got(relay) == list(range(0, len(BIG), BLOCK))
    relay.requests.clear()
    assert fetch(f"s3://{models}/{end}") == path
    assert got(relay) == []
    assert len(relay.requests) <= 3


@pytest.mark.slow
def test_a_file_and_an_archive(models: str, store: S3) -> None:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("bert/config.json", b"{}")
    store.put(f"{models}/a/bert.zip", made.getvalue())
    store.put(f"{models}/a/iris#1 é.skops", made.getvalue())
    assert held(fetch(f"s3://{models}/a/bert.zip")) == {"config.json": b"{}"}
    assert held(fetch(f"zip+s3://{models}/a/iris#1 é.skops")) == {"config.json": b"{}"}
    path = fetch(f"s3://{models}/a/iris#1 é.skops")
    assert (path.name, path.read_bytes()) == ("iris#1 é.skops", made.getvalue())
    digest = hashlib.sha256(made.getvalue()).hexdigest()
    assert held(fetch(f"s3://{models}/a/bert.zip#sha256={digest}")) == {"config.json": b"{}"}
    assert "damaged twice" in refused(f"s3://{models}/a/bert.zip#sha256={'0' * 64}")
    assert refused(f"s3://{models}/a/#sha256={digest}") == f"s3://{models}/a/ is a folder, and #sha256= is of a file"


@pytest.mark.slow
def test_a_whole_bucket(models: str, store: S3) -> None:
    assert set(held(fetch(f"s3://{models}"))) == {f"bert/{name}" for name in FILES}


@pytest.mark.slow
def test_resolve_takes_it_as_model_dir(models: str, store: S3) -> None:
    for file in tiny("bert", "fill_mask").iterdir():
        store.put(f"{models}/tiny/{file.name}", file.read_bytes())
    files = resolve(Config(model_dir=f"s3://{models}/tiny/"), lambda fraction: None)
    assert files.config["model_type"] == "bert"
    with pytest.raises(LoadError) as caught:
        resolve(Config(model_dir=f"s3://{models}/"), lambda fraction: None)
    assert caught.value.message == f"there is no config.json in --model_dir s3://{models}/, which holds bert/, tiny/"


@pytest.mark.slow
def test_only_what_changed_is_fetched(models: str, store: S3, relay: Web) -> None:
    old = fetch(f"s3://{models}/bert/")
    store.put(f"{models}/bert/config.json", b"[]")
    store.delete(f"{models}/bert/1_Pooling/config.json")
    relay.requests.clear()
    new = fetch(f"s3://{models}/bert/")
    assert held(new) == {"config.json": b"[]", "model.safetensors": BIG}
    assert held(old) == FILES, "somebody may be loading it"
    assert got(relay) == []
    assert (new / "model.safetensors").stat().st_ino == (old / "model.safetensors").stat().st_ino


def test_a_connection_that_breaks(models: str, relay: Web, caplog: pytest.LogCaptureFixture) -> None:
    relay.fail(f"/{models}/bert/model.safetensors", cut_after=5000, times=2)
    assert held(fetch(f"s3://{models}/bert/")) == FILES
    assert "trying again in 0.01 s" in caplog.text
    assert len(got(relay)) <= 14


@pytest.mark.slow
def test_a_process_that_is_killed_goes_on_where_it_was(models: str, relay: Web, home: Path) -> None:
    url = f"s3://{models}/bert/"
    relay.fail(f"/{models}/bert/model.safetensors", spares=4, hold_after=0, times=2)
    process = start(url)
    part = home / "models" / parse(url).label / "part/files/model.safetensors"
    # Both streams stand still: none of its requests may be counted below.
    wait_for(lambda: len(got(relay)) == 6 and part.stat().st_size == 4 * BLOCK)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    relay.go_on.set()
    relay.requests.clear()
    assert held(fetch(url)) == FILES
    assert got(relay) == list(range(4 * BLOCK, len(BIG), BLOCK))


@pytest.mark.slow
def test_two_processes_share_one_download(models: str, relay: Web) -> None:
    processes = [start(f"s3://{models}/bert/") for _ in range(2)]
    answers = [finish(process) for process in processes]
    assert len({str(answer["path"]) for answer in answers}) == 1
    assert got(relay) == list(range(0, len(BIG), BLOCK))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["etag", "sha256"])
def test_wrong_bytes_are_found(models: str, store: S3, relay: Web, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    digest = hashlib.sha256(BIG).digest()
    headers = {"x-amz-checksum-sha256": base64.b64encode(digest).decode(), "x-amz-sdk-checksum-algorithm": "SHA256"}
    store.put(f"{models}/bert/model.safetensors", BIG, **(headers if kind == "sha256" else {}))
    relay.fail(f"/{models}/bert/model.safetensors", damaged=True)
    assert held(fetch(f"s3://{models}/bert/")) == FILES
    algorithm, right = ("sha256", digest.hex()) if kind == "sha256" else ("md5", hashlib.md5(BIG).hexdigest())
    assert f"model.safetensors of s3://{models}/bert/ arrived damaged: its {algorithm} is " in caplog.text
    relay.fail(f"/{models}/bert/other.bin", damaged=True, times=100)
    store.put(f"{models}/bert/other.bin", b"other content")
    assert refused(f"s3://{models}/bert/").startswith(
        f"other.bin of s3://{models}/bert/ arrived damaged twice: its md5 is "
    )
    assert right in caplog.text


@pytest.mark.slow
def test_a_file_that_changes_while_it_is_read(models: str, store: S3, relay: Web) -> None:
    relay.fail(f"/{models}/bert/model.safetensors", hold_after=1000)
    process = start(f"s3://{models}/bert/")
    wait_for(lambda: got(relay))
    store.put(f"{models}/bert/model.safetensors", BIG[::-1])
    relay.go_on.set()
    assert held(Path(str(finish(process)["path"]))) == FILES | {"model.safetensors": BIG[::-1]}


# A store that does not answer, or not well


@pytest.mark.slow
def test_what_is_not_there(models: str) -> None:
    for url in (
        f"s3://{models}/nope",
        f"s3://{models}/nope/",
        f"s3://{models}/nope.zip",
        "s3://nope/bert/",
        "s3://nope",
    ):
        assert refused(url) == f"there is nothing at {url}"


@pytest.mark.slow
def test_a_server_error_that_passes(models: str, relay: Web, caplog: pytest.LogCaptureFixture) -> None:
    relay.fail(f"/{models}", status=503, times=2)
    relay.fail(f"/{models}/bert/config.json", status=500, times=2)
    assert held(fetch(f"s3://{models}/bert/")) == FILES
    assert f"s3://{models}/bert/ cannot be reached: " in caplog.text


def test_a_server_error_that_does_not(models: str, relay: Web) -> None:
    relay.fail(f"/{models}", status=503, times=100)
    assert refused(f"s3://{models}/bert/").startswith(f"s3://{models}/bert/ cannot be reached: ")
    assert len(relay.requests) == 4, "tried with our pauses, and not with s3fs's and botocore's too"


@pytest.mark.slow
def test_the_cache_serves_when_the_store_does_not(models: str, relay: Web, caplog: pytest.LogCaptureFixture) -> None:
    path = fetch(f"s3://{models}/bert/")
    relay.fail(f"/{models}", status=403, times=100)
    assert fetch(f"s3://{models}/bert/") == path
    assert f"s3://{models}/bert/ may not be read with the credentials that were found: " in caplog.text
    assert f"; serving the copy in the cache ({path})" in caplog.text
    relay.stop()
    caplog.clear()
    assert fetch(f"s3://{models}/bert/") == path
    assert f"s3://{models}/bert/ cannot be reached: " in caplog.text


@pytest.fixture
def without_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "none"))


@pytest.mark.usefixtures("without_credentials")
def test_a_private_bucket_without_credentials(models: str) -> None:
    assert refused(f"s3://{models}/bert/") == (
        f"no AWS credentials were found, and s3://{models}/bert/ may not be read without; set AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    )


@pytest.mark.usefixtures("without_credentials")
def test_a_public_file_needs_no_credentials(models: str, store: S3) -> None:
    store.put(f"{models}/public.pkl", b"x", **{"x-amz-acl": "public-read"})
    assert fetch(f"s3://{models}/public.pkl").read_bytes() == b"x"


@pytest.mark.usefixtures("without_credentials")
def test_half_of_the_credentials(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    message = refused(f"s3://{models}/bert/")
    assert message.startswith(f"s3://{models}/bert/ cannot be read: ")
    assert "AWS_SECRET_ACCESS_KEY" in message.upper()


def test_a_profile_that_is_not_there(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    message = refused(f"s3://{models}/bert/")
    assert message == f"s3://{models}/bert/ cannot be read: The config profile (nobody) could not be found"


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["AWS_REGION", "AWS_DEFAULT_REGION"])
def test_the_region(models: str, relay: Web, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_REGION")
    monkeypatch.setenv(variable, "eu-west-9")
    fetch(f"s3://{models}/bert/config.json")
    assert all("/eu-west-9/s3/" in request.headers["authorization"] for request in relay.requests)


def test_too_many_files(models: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bucket, "MAX_FILES", 2)
    assert refused(f"s3://{models}/") == f"s3://{models}/ holds 3 files, so it is no model"


@pytest.mark.slow
def test_a_disk_that_is_too_small(models: str, relay: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr(bucket, "check_space", lambda shown, needed, directory: asked.append(needed))
    fetch(f"s3://{models}/bert/")
    assert asked == [sum(map(len, FILES.values()))]


# Offline, and without the extra


@pytest.mark.slow
@pytest.mark.parametrize("variable", ["HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"])
def test_offline_asks_nothing(models: str, relay: Web, variable: str) -> None:
    url = f"s3://{models}/bert/"
    guard = NO_NETWORK + "sys.modules['s3fs'] = None"
    assert "keeps this machine off the network" in str(finish(start(url, guard, {variable: "1"}))["error"])
    assert relay.requests == []
    path = fetch(url)
    relay.requests.clear()
    assert finish(start(url, guard, {variable: "1"}))["path"] == str(path)
    assert relay.requests == []


def test_without_the_extra(models: str, store: S3) -> None:
    answer = finish(start(f"s3://{models}/bert/", "sys.modules['s3fs'] = None"))
    assert answer["error"] == "s3:// needs a package that is not installed; pip install 'modelserve[s3]'"


# Other stores


class Other(AbstractFileSystem):  # type: ignore[misc]
    """A store that is neither S3 nor asynchronous."""

    protocol = "gs"
    cachable = False
    content: ClassVar[dict[str, bytes]] = {}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        below = {name for name in self.content if f"{name}/".startswith(f"{path}/")}
        found = [self._described(name) for name in sorted(below) if "/" not in name[len(path) + 1 :]]
        folders = {f"{path}/{name[len(path) + 1 :].split('/')[0]}" for name in below} - below
        found += [{"name": name, "size": 0, "type": "directory"} for name in sorted(folders)]
        if not found:
            raise FileNotFoundError(path)
        return found if detail else [info["name"] for info in found]

    def _described(self, name: str) -> dict[str, Any]:
        digest = hashlib.md5(self.content[name], usedforsecurity=False)
        encoded = base64.b64encode(digest.digest()).decode()
        return {
            "name": name,
            "size": len(self.content[name]),
            "type": "file",
            "etag": digest.hexdigest()[:8],
            "md5Hash": encoded,
        }

    def _open(self, path: str, mode: str = "rb", **_: Any) -> io.BytesIO:
        return io.BytesIO(self.content[path])


def test_another_store_of_fsspec() -> None:
    assert refused("gs://bucket/bert/") == "gs:// needs a package that is not installed; pip install 'gcsfs'"
    fsspec.register_implementation("gs", Other, clobber=True)
    try:
        Other.content.update({f"bucket/bert/{name}": content for name, content in FILES.items()})
        path = fetch("gs://bucket/bert/")
        assert held(path) == FILES
        assert fetch("gs://bucket/bert") == path
        Other.content["bucket/bert/config.json"] = b"[]"
        assert held(fetch("gs://bucket/bert/")) == FILES | {"config.json": b"[]"}
        assert fetch("gs://bucket/bert/config.json").read_bytes() == b"[]"
        assert refused("gs://bucket/nope/") == "there is nothing at gs://bucket/nope/"
    finally:
        _registry.pop("gs")  # there is no public way back
