"""Secrets at rest: which key encrypts, which decrypts, and that no message and no log has a value or a key."""

from __future__ import annotations

import logging
import stat
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keyring
import pytest
from cryptography.fernet import Fernet
from keyring.backend import KeyringBackend
from keyring.backends import fail, null
from keyring.errors import KeyringLocked

from modelserve.deploy import secrets
from modelserve.deploy.secrets import Sealed, seal, unseal
from modelserve.errors import StoreError
from tests.deploy.programs import BEGIN, run_at_once

VALUE = "hunter2-the-value"
PASSPHRASE = "correct horse battery staple"
WHAT = "the secret 'TOKEN' of the project 'demo'"


class Memory(KeyringBackend):
    """A keyring that keeps what it is given, as the OS's does. Not viable: never chosen by itself."""

    viable = False
    priority = 5  # type: ignore[assignment]

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[tuple[str, str], str] = {}

    def get_password(self, service: str, username: str) -> str | None:
        return self.kept.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self.kept[service, username] = password


class Locked(Memory):
    """One that wants a person, where there is none."""

    def get_password(self, service: str, username: str) -> str | None:
        raise KeyringLocked("no desktop to ask on")


class Forgetful(Memory):
    def set_password(self, service: str, username: str, password: str) -> None:
        pass


class Plain(Memory):
    """Below what keyring recommends, as keyrings.alt's plain file is."""

    priority = 0.5  # type: ignore[assignment]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MODELSERVE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("MODELSERVE_SECRET_KEY", raising=False)
    return tmp_path / "home"


@pytest.fixture(autouse=True)
def use() -> Iterator[Callable[[KeyringBackend], None]]:
    before = keyring.get_keyring()
    keyring.set_keyring(fail.Keyring())
    yield keyring.set_keyring
    keyring.set_keyring(before)


@pytest.fixture(autouse=True)
def nothing_leaks(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    for phase in ("setup", "call"):
        for record in caplog.get_records(phase):  # type: ignore[arg-type]
            assert VALUE not in record.getMessage()
            assert PASSPHRASE not in record.getMessage()


def refused(sealed: Sealed, *hidden: str) -> str:
    """What decrypting it says: the secret's name, and neither the value, the key nor what was encrypted."""
    with pytest.raises(StoreError) as caught:
        unseal(sealed, WHAT)
    shown = "".join(traceback.format_exception(caught.value))
    for text in (VALUE, PASSPHRASE, sealed.token, *hidden):
        assert text not in shown
    assert caught.value.message.startswith(WHAT)
    return caught.value.message


def test_a_file_that_says_what_it_is(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    sealed = seal(VALUE, WHAT)
    assert sealed.key == "file"
    assert VALUE not in str(sealed)
    path = home / "secret.key"
    first, second, key = path.read_text().splitlines()
    assert first.startswith("# The key that modelserve's secrets")
    assert second.startswith("# ")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert unseal(sealed, WHAT) == VALUE
    assert unseal(seal(VALUE, WHAT), WHAT) == VALUE
    assert [record.getMessage() for record in caplog.records] == [
        f"secrets are encrypted with a new key in {path}, which only this user may read: there is no OS keyring, and "
        "MODELSERVE_SECRET_KEY is not set"
    ]
    assert key not in caplog.text
    assert sorted(name.name for name in home.iterdir()) == ["secret.key", "secret.lock"]


def test_a_file_that_others_may_read(home: Path) -> None:
    sealed = seal(VALUE, WHAT)
    (home / "secret.key").chmod(0o640)
    for call in (lambda: seal(VALUE, WHAT), lambda: unseal(sealed, WHAT)):
        with pytest.raises(StoreError, match="has mode 0640, so others may read it; run: chmod 600 "):
            call()


@pytest.mark.parametrize("content", ["", "nonsense", "# a comment\n", "AAAA\nBBBB\n", "\udcff"])
def test_a_file_that_is_no_key(home: Path, content: str) -> None:
    sealed = seal(VALUE, WHAT)
    (home / "secret.key").write_text(content, errors="surrogateescape")
    for call in (lambda: seal(VALUE, WHAT), lambda: unseal(sealed, WHAT)):
        with pytest.raises(StoreError, match=r"secret\.key holds no key; put it back"):
            call()
    assert (home / "secret.key").read_bytes() == content.encode(errors="surrogateescape"), "it was overwritten"


def test_a_file_that_is_gone_or_another(home: Path) -> None:
    sealed = seal(VALUE, WHAT)
    (home / "secret.key").unlink()
    assert refused(sealed) == (
        f"{WHAT} was encrypted with the key in {home}/secret.key, which this process does not find; put it back, or "
        "set the secret anew"
    )
    other = seal("another", WHAT)
    assert refused(sealed) == (
        f"{WHAT} was encrypted with another key than is in {home}/secret.key now; put that one back, or set the secret "
        "anew"
    )
    assert unseal(other, WHAT) == "another"


def test_no_place_for_a_file(home: Path) -> None:
    home.write_text("a file, where the directory should be")
    with pytest.raises(StoreError, match=r"secret\.key cannot be read: Not a directory|cannot be made in"):
        seal(VALUE, WHAT)


SEAL = f"""
import sys
from modelserve.deploy.secrets import seal
{BEGIN}
print(*seal("value", "the secret"), sep="\\n")
"""


def test_processes_that_make_the_file_at_once(home: Path) -> None:
    outputs = run_at_once(SEAL.replace("print(*", "import logging; logging.disable(); print(*"), [()] * 4)
    for output in outputs:
        token, kind, _ = output.split("\n", 2)
        assert kind == "file"
        assert unseal(Sealed(token, "file", ""), WHAT) == "value"
    assert sorted(name.name for name in home.iterdir()) == ["secret.key", "secret.lock"]


def test_a_key_in_the_environment(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key = Fernet.generate_key().decode()
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", key + "\n")  # as a file of a cluster's secret ends
    sealed = seal(VALUE, WHAT)
    assert sealed[1:] == ("environment", "")
    assert Fernet(key).decrypt(sealed.token) == VALUE.encode()
    assert unseal(sealed, WHAT) == VALUE
    assert not home.exists()
    for other in (Fernet.generate_key().decode(), PASSPHRASE):
        monkeypatch.setenv("MODELSERVE_SECRET_KEY", other)
        assert refused(sealed, key, other) == (
            f"{WHAT} was encrypted with another key than is in MODELSERVE_SECRET_KEY now; put that one back, or set "
            "the secret anew"
        )
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", " ")
    assert refused(sealed, key) == (
        f"{WHAT} was encrypted with the key in MODELSERVE_SECRET_KEY, which this process does not find; put it back, "
        "or set the secret anew"
    )


def test_a_passphrase(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", PASSPHRASE)
    sealed, again = seal(VALUE, WHAT), seal(VALUE, WHAT)
    assert sealed.key == again.key == "passphrase"
    assert sealed.salt != again.salt
    assert unseal(sealed, WHAT) == unseal(again, WHAT) == VALUE
    assert not home.exists()
    for other in (Fernet.generate_key().decode(), PASSPHRASE + "!"):
        monkeypatch.setenv("MODELSERVE_SECRET_KEY", other)
        assert "another key than is in MODELSERVE_SECRET_KEY now" in refused(sealed, other)
    monkeypatch.delenv("MODELSERVE_SECRET_KEY")
    assert "the key in MODELSERVE_SECRET_KEY, which this process does not find" in refused(sealed)


def test_the_keyring_comes_first(
    home: Path, monkeypatch: pytest.MonkeyPatch, use: Callable[[KeyringBackend], None]
) -> None:
    monkeypatch.setenv("MODELSERVE_SECRET_KEY", PASSPHRASE)
    memory = Memory()
    use(memory)
    sealed, again = seal(VALUE, WHAT), seal(VALUE, WHAT)
    assert sealed[1:] == again[1:] == ("keyring", "")
    [(place, key)] = memory.kept.items()
    assert place == ("modelserve", "secret-key")
    assert Fernet(key).decrypt(sealed.token) == Fernet(key).decrypt(again.token) == VALUE.encode()
    assert unseal(sealed, WHAT) == VALUE
    assert not (home / "secret.key").exists()
    memory.kept.clear()
    gone = (
        f"{WHAT} was encrypted with the key in the OS keyring, which this process does not find; put it back, or set "
        "the secret anew"
    )
    assert refused(sealed, key) == gone
    use(fail.Keyring())
    assert refused(sealed, key) == gone


@pytest.mark.parametrize("before", ["file", "environment", "passphrase", "keyring"])
def test_what_was_encrypted_stays_readable(
    before: str, monkeypatch: pytest.MonkeyPatch, use: Callable[[KeyringBackend], None]
) -> None:
    """A keyring that comes to be there later changes what new secrets are encrypted with, and nothing else."""
    if before in ("environment", "passphrase"):
        key = PASSPHRASE if before == "passphrase" else Fernet.generate_key().decode()
        monkeypatch.setenv("MODELSERVE_SECRET_KEY", key)
    if before == "keyring":
        use(Memory())
    sealed = seal(VALUE, WHAT)
    assert sealed.key == before
    if before == "keyring":
        monkeypatch.setenv("MODELSERVE_SECRET_KEY", PASSPHRASE)
    else:
        use(Memory())
    assert seal(VALUE, WHAT).key == "keyring"
    assert unseal(sealed, WHAT) == VALUE


@pytest.mark.parametrize("backend", [fail.Keyring, null.Keyring, Plain, Locked, Forgetful])
def test_keyrings_that_keep_nothing(
    backend: type[KeyringBackend], use: Callable[[KeyringBackend], None], caplog: pytest.LogCaptureFixture
) -> None:
    use(backend())
    sealed = seal(VALUE, WHAT)
    assert sealed.key == "file"
    assert unseal(sealed, WHAT) == VALUE
    warned = [record.getMessage() for record in caplog.records if "OS keyring cannot be used" in record.getMessage()]
    expected = {Locked: ["(KeyringLocked)"], Forgetful: ["(Forgetful gives nothing back)"]}.get(backend, [])
    assert warned == [f"the OS keyring cannot be used {reason}" for reason in expected]


def test_without_the_keyring_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "keyring", None)
    assert seal(VALUE, WHAT).key == "file"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (b"hunter2", "its value is of type bytes; a value is text"),
        (None, "its value is of type NoneType; a value is text"),
        ("hunter2\ud800", "its value has characters that are no Unicode"),
    ],
)
def test_what_is_no_value(value: Any, message: str) -> None:
    with pytest.raises(StoreError) as caught:
        seal(value, WHAT)
    assert caught.value.message == f"{WHAT} cannot be stored: {message}"
    assert "hunter2" not in "".join(traceback.format_exception(caught.value))


def test_the_log_is_the_packages(caplog: pytest.LogCaptureFixture) -> None:
    seal(VALUE, WHAT)
    assert {record.name for record in caplog.records} == {secrets.__name__}
