"""A folder or a file of an object store into the cache, through fsspec (s3fs for s3://).

Credentials and endpoints come from where the store's own library reads them (AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, …).
A public bucket of S3 needs none. Knows no archive and no model. Blocks; runs in the load thread, beside fsspec's own.
"""

from __future__ import annotations

import base64
import importlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import fsspec

from modelserve.errors import LoadError
from modelserve.runtime.archive import MAX_FILES, inside
from modelserve.runtime.cache import Copy, Item, Part, check_space
from modelserve.runtime.checksums import Checksum
from modelserve.runtime.source import BUCKETS, Source
from modelserve.runtime.transfer import Body, Unreachable, patiently, receive

_BLOCK = 8 << 20
"""Bytes of one request."""
_STREAMS = 4
"""Requests at once for one file. One connection to S3 brings some 80 MB/s, whatever the line is."""
_MARKS = ("ETag", "etag", "mtime", "LastModified", "last_modified", "updated", "modified")
"""Where fsspec's file systems have what changes with the content, best first."""
_MD5 = re.compile(r'"?([0-9a-f]{32})"?')


class _Changed(Exception):
    """The file is another one than the one that was listed."""


def bring(
    source: Source, part: Part, copy: Copy | None, progress: Callable[[float], None], pauses_s: Iterable[float]
) -> bool:
    """The files in `part`; False when `copy` is what the store has. Raises Unreachable, LoadError, or OSError."""
    pauses_s = tuple(pauses_s)
    store = _Store(source)
    for _ in range(3):
        found = patiently(store.look, lambda: 0, pauses_s)
        items = {name: _item(info) for name, info in found.items()}
        before = copy.note.items if copy is not None else {}
        if items.keys() == before.keys() and all(item.same(before[name]) for name, item in items.items()):
            return False
        part.expect(items, copy)
        try:
            _receive(store, source, part, found, progress, pauses_s)
        except _Changed:
            continue
        return True
    raise Unreachable(f"{source.shown} changes while it is read", passing=True)


def _receive(
    store: _Store,
    source: Source,
    part: Part,
    found: Mapping[str, dict[str, Any]],
    progress: Callable[[float], None],
    pauses_s: Iterable[float],
) -> None:
    total = sum(item.size or 0 for item in part.items.values()) or 1
    check_space(source.shown, total - sum(map(part.size, part.items)), part.directory)
    done = 0
    for name, info in sorted(found.items()):

        def arrived(name: str = name, done: int = done) -> None:
            progress(min(1.0, (done + part.size(name)) / total))

        shown = source.shown if name == source.name else f"{name} of {source.shown}"
        ask = partial(store.ask, part, name, info)
        receive(part, name, ask, shown=shown, arrived=arrived, pauses_s=pauses_s)
        done += part.size(name)


class _Store:
    """The file system that the URL names."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._system = _system(source, anonymous=False)
        self._anonymous = False

    def look(self) -> dict[str, dict[str, Any]]:
        """Path below the folder, or name of the file -> what the store says of it."""
        with self._errors():
            try:
                found = self._look()
            except Exception as error:
                if type(error).__name__ != "NoCredentialsError":  # botocore's, which may not be installed
                    raise
                self._anonymous, self._system = True, _system(self._source, anonymous=True)
                found = self._look()
        if not found:
            raise LoadError(f"there is nothing at {self._source.shown}")
        if len(found) > MAX_FILES:
            raise LoadError(f"{self._source.shown} holds {len(found)} files, so it is no model")
        return {str(inside(name, self._source.shown)): info for name, info in found.items()}

    @contextmanager
    def ask(self, part: Part, name: str, info: dict[str, Any]) -> Iterator[Body]:
        """What is missing of one file."""
        item, have = part.items[name], part.size(name)
        with self._errors():
            if item.checksum is None:
                item = Item(item.size, item.mark, self._checksum(info))
        yield Body(item, have, self._blocks(info["name"], item, have))

    def _look(self) -> dict[str, dict[str, Any]]:
        path = self._system._strip_protocol(self._source.url)
        if self._source.name:
            info = self._system.info(path)
            if info["type"] == "file":
                return {self._source.name: {**info, "name": path}}
        if self._source.packed:
            raise FileNotFoundError(path)
        if self._source.sha256:
            raise LoadError(f"{self._source.shown} is a folder, and #sha256= is of a file")
        found = self._system.find(path, detail=True)
        below = {name[len(path) :].strip("/"): info for name, info in found.items() if not name.endswith("/")}
        return {name: info for name, info in below.items() if name}

    def _blocks(self, path: str, item: Item, start: int) -> Iterator[bytes]:
        """The bytes from `start` on. Raises _Changed at the end when the file is not what it was at the beginning."""
        size = item.size or 0
        starts = range(start, size, _BLOCK)
        with self._errors():
            for first in range(0, len(starts), _STREAMS):
                begins = starts[first : first + _STREAMS]
                ends = [min(begin + _BLOCK, size) for begin in begins]
                for begin, end, block in zip(
                    begins, ends, self._system.cat_ranges([path] * len(ends), list(begins), ends), strict=True
                ):
                    if isinstance(block, Exception):
                        raise block
                    if len(block) != end - begin:
                        raise Unreachable(
                            f"{self._source.shown} ended after {begin + len(block)} of {size} bytes", passing=True
                        )
                    yield block
            if starts and not item.same(_item(self._system.info(path))):
                raise _Changed

    def _checksum(self, info: Mapping[str, Any]) -> Checksum | None:
        """What the store says of the content, and can be compared."""
        if self._source.sha256:
            return Checksum("sha256", self._source.sha256)
        if not self._source.scheme.startswith("s3"):
            encoded = info.get("md5Hash")  # Google's
            return Checksum("md5", base64.b64decode(encoded).hex()) if encoded else None
        bucket, key, _ = self._system.split_path(info["name"])
        head = self._system.call_s3("head_object", Bucket=bucket, Key=key, ChecksumMode="ENABLED")
        encoded = head.get("ChecksumSHA256", "-")
        if "-" not in encoded:  # with one it is a checksum of the parts' checksums
            return Checksum("sha256", base64.b64decode(encoded).hex())
        # The ETag is the MD5 of what was uploaded in one piece and not encrypted with another's key.
        plain = head.get("ServerSideEncryption", "AES256") == "AES256" and "SSECustomerAlgorithm" not in head
        etag = _MD5.fullmatch(head.get("ETag", ""))
        return Checksum("md5", etag[1]) if etag and plain else None

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """What fsspec's file systems raise, in one sentence."""
        try:
            yield
        except (LoadError, Unreachable, _Changed):
            raise
        except Exception as error:
            raise self._reason(error) from error

    def _reason(self, error: Exception) -> Exception:
        shown, said = self._source.shown, (str(error).strip().splitlines() or [type(error).__name__])[0]
        amazon = self._source.scheme.startswith("s3")
        if isinstance(error, FileNotFoundError):
            return LoadError(f"there is nothing at {shown}")
        if isinstance(error, PermissionError) and self._anonymous:
            return Unreachable(
                f"no AWS credentials were found, and {shown} may not be read without; set AWS_ACCESS_KEY_ID and "
                "AWS_SECRET_ACCESS_KEY, or AWS_PROFILE",
                passing=False,
            )
        if isinstance(error, PermissionError):
            return Unreachable(f"{shown} may not be read with the credentials that were found: {said}", passing=False)
        if amazon and _is_final(error):
            return Unreachable(f"{shown} cannot be read: {said}", passing=False)
        return Unreachable(f"{shown} cannot be reached: {said}", passing=True)


def _system(source: Source, *, anonymous: bool) -> Any:
    try:
        kind = fsspec.get_filesystem_class(source.scheme)
    except ImportError as error:
        raise LoadError(
            f"{source.scheme}:// needs a package that is not installed; pip install '{BUCKETS[source.scheme]}'"
        ) from error
    if not source.scheme.startswith("s3"):
        return kind(**kind._get_kwargs_from_urls(source.url), skip_instance_cache=True)
    region = os.environ.get("AWS_DEFAULT_REGION") or os.environ.get("AWS_REGION")  # botocore reads the first only
    system = kind(
        **kind._get_kwargs_from_urls(source.url),
        anon=anonymous,
        client_kwargs={"region_name": region} if region else {},
        # Tries and pauses are ours (transfer.py): botocore's and s3fs's own would multiply with them.
        config_kwargs={"connect_timeout": 10, "read_timeout": 30, "retries": {"total_max_attempts": 1}},
        use_listings_cache=False,
        skip_instance_cache=True,
    )
    system.retries = 1
    return system


def _item(info: Mapping[str, Any]) -> Item:
    return Item(info["size"], _mark(info))


def _mark(info: Mapping[str, Any]) -> str:
    return next((str(info[name]) for name in _MARKS if info.get(name)), "")


def _is_final(error: Exception) -> bool:
    """Whether S3 will say the same again: no connection that failed, and no 5xx."""
    exceptions: Any = importlib.import_module("botocore.exceptions")
    response = getattr(error.__cause__, "response", None)
    if isinstance(response, dict):
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 500)
        return bool(status < 500 and status not in (408, 429))
    passing = (exceptions.HTTPClientError, exceptions.ConnectionError)
    return isinstance(error, exceptions.BotoCoreError) and not isinstance(error, passing)
