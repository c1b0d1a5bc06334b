"""Encrypts the values of secrets, and finds the key: the OS keyring's, MODELSERVE_SECRET_KEY, or a file's.

What is encrypted remembers which kind of key did it, so it stays readable when another kind comes to be preferred. No
message here has a value or a key in it. Knows no store.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from modelserve.deploy.home import home
from modelserve.errors import StoreError

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

log = logging.getLogger(__name__)

VARIABLE = "MODELSERVE_SECRET_KEY"
"""A Fernet key, or any passphrase."""

Kind = Literal["keyring", "environment", "passphrase", "file"]
"""environment: a Fernet key in VARIABLE; passphrase: a key derived from what is in VARIABLE and a salt."""

_SERVICE, _USER = "modelserve", "secret-key"
_SCRYPT = {"n": 2**15, "r": 8, "p": 3}
"""OWASP's cost for scrypt with 32 MiB: a quarter of a second. Another cost would be another kind."""


class Sealed(NamedTuple):
    """An encrypted value, as the store keeps it."""

    token: str
    key: Kind
    salt: str


def seal(value: object, what: str) -> Sealed:
    """what: the secret's name in messages. Raises StoreError, for a value that is no text too."""
    from cryptography.fernet import Fernet

    if not isinstance(value, str):
        raise StoreError(f"{what} cannot be stored: its value is of type {type(value).__name__}; a value is text")
    try:
        clear = value.encode()
    except UnicodeEncodeError:  # which has the value in it
        raise StoreError(f"{what} cannot be stored: its value has characters that are no Unicode") from None
    kind, key, salt = _key_to_seal()
    return Sealed(Fernet(key).encrypt(clear).decode(), kind, salt)


def unseal(sealed: Sealed, what: str) -> str:
    """Raises StoreError when the key is not there, or is not the one that encrypted it."""
    from cryptography.fernet import Fernet, InvalidToken

    key, where = _key_to_unseal(sealed)
    if key is None:
        raise StoreError(
            f"{what} was encrypted with the key in {where}, which this process does not find; put it back, or set the "
            "secret anew"
        )
    try:
        return Fernet(key).decrypt(sealed.token).decode()
    except (InvalidToken, ValueError):  # ValueError: a passphrase, where a Fernet key encrypted it
        raise StoreError(
            f"{what} was encrypted with another key than is in {where} now; put that one back, or set the secret anew"
        ) from None


def _key_to_seal() -> tuple[Kind, bytes, str]:
    """The first of the keyring, the environment and the file, with the salt where it is derived."""
    if key := _keyring_key(make=True):
        return "keyring", key, ""
    if said := _environment():
        if _is_key(said):
            return "environment", said.encode(), ""
        salt = os.urandom(16).hex()
        return "passphrase", _derived(said, salt), salt
    return "file", _file_key() or _new_file_key(), ""


def _key_to_unseal(sealed: Sealed) -> tuple[bytes | None, str]:
    """None where it is missing, and where it belongs."""
    if sealed.key == "keyring":
        return _keyring_key(make=False), "the OS keyring"
    if sealed.key == "file":
        return _file_key(), str(_path())
    said = _environment()
    if sealed.key == "passphrase":
        return _derived(said, sealed.salt) if said else None, VARIABLE
    return said.encode() if said else None, VARIABLE


def _environment() -> str:
    return os.environ.get(VARIABLE, "").strip()


def _is_key(text: str) -> bool:
    """Whether it is a Fernet key: 32 bytes in URL-safe base64."""
    try:
        return len(base64.b64decode(text, altchars=b"-_", validate=True)) == 32
    except (binascii.Error, ValueError):
        return False


def _derived(passphrase: str, salt: str) -> bytes:
    from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

    derive = Scrypt(salt=bytes.fromhex(salt), length=32, **_SCRYPT)
    return base64.urlsafe_b64encode(derive.derive(passphrase.encode(errors="surrogateescape")))


def _keyring() -> KeyringBackend | None:
    """The OS keyring, where the package is installed and finds one that it recommends: not one that fails, keeps
    nothing or keeps a plain file."""
    try:
        import keyring
    except ImportError:
        return None
    backend = keyring.get_keyring()
    return backend if backend.priority >= 1 else None


def _keyring_key(*, make: bool) -> bytes | None:
    from cryptography.fernet import Fernet

    backend = _keyring()
    if backend is None:
        return None
    try:
        key: str | None = backend.get_password(_SERVICE, _USER)
        if key is None and make:
            with _alone():
                if backend.get_password(_SERVICE, _USER) is None:
                    backend.set_password(_SERVICE, _USER, Fernet.generate_key().decode())
                key = backend.get_password(_SERVICE, _USER)
    except StoreError:
        raise
    except Exception as error:  # backends raise whatever their desktops' libraries do; a locked one is common
        log.warning("the OS keyring cannot be used (%s)", type(error).__name__)
        return None
    if key and _is_key(key):
        return key.encode()
    if make:
        log.warning("the OS keyring cannot be used (%s gives nothing back)", type(backend).__name__)
    return None


def _path() -> Path:
    return home() / "secret.key"


def _file_key() -> bytes | None:
    """None where there is no file. Raises StoreError for one that is no key or that others may read."""
    path = _path()
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"the secrets' key {path} cannot be read: {error.strerror}; let this user read it") from error
    if mode & 0o077:
        raise StoreError(f"the secrets' key {path} has mode {mode:04o}, so others may read it; run: chmod 600 {path}")
    keys = [line for line in lines if line and not line.startswith("#")]
    if len(keys) != 1 or not _is_key(keys[0]):
        raise StoreError(f"{path} holds no key; put it back, or remove it and set the secrets anew")
    return keys[0].encode()


def _new_file_key() -> bytes:
    """Made whole or not at all, by one process."""
    from cryptography.fernet import Fernet

    path = _path()
    with _alone():
        if key := _file_key():  # another process was faster
            return key
        key = Fernet.generate_key()
        new = path.with_suffix(".new")
        try:
            with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
                file.write(
                    b"# The key that modelserve's secrets of this user are encrypted with. Whoever has it can read\n"
                )
                file.write(b"# them; without it nobody can. MODELSERVE_SECRET_KEY or an OS keyring would replace it.\n")
                file.write(key + b"\n")
                file.flush()
                os.fsync(file.fileno())
            os.replace(new, path)
        except OSError as error:
            raise StoreError(f"the secrets' key {path} cannot be written: {error.strerror}") from error
    log.warning(
        "secrets are encrypted with a new key in %s, which only this user may read: there is no OS keyring, and %s is "
        "not set",
        path,
        VARIABLE,
    )
    return key


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """No other process of this home makes a key meanwhile. Raises StoreError."""
    path = home() / "secret.lock"
    with contextlib.ExitStack() as stack:
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            file = stack.enter_context(open(path, "ab", opener=lambda name, flags: os.open(name, flags, 0o600)))
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            raise StoreError(
                f"a key for secrets cannot be made in {path.parent}: {error.strerror}; let this user write there, or "
                f"set {VARIABLE}"
            ) from error
        yield
