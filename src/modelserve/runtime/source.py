"""What --model_dir names: a local path, or a URL, understood once, and how it may be shown to others.

Pure: asks nothing of the network and looks at no file. A URL may carry credentials (user:password@, a signature in its
query); `shown`, `key` and `label` never do.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from modelserve.errors import LoadError
from modelserve.urls import shown

ARCHIVES = (".zip", ".tar.gz", ".tgz", ".tar")
"""Ends of the names of what is unpacked."""

BUCKETS = {
    "s3": "modelserve[s3]",
    "s3a": "modelserve[s3]",
    "gs": "gcsfs",
    "gcs": "gcsfs",
    "az": "adlfs",
    "abfs": "adlfs",
    "abfss": "adlfs",
    "oss": "ossfs",
}
"""Scheme of an object store -> what `pip install` takes to read it through fsspec."""

_KNOWN = ("file", "http", "https", *BUCKETS)
_HUB = ("hf", "huggingface")
_SHA256 = re.compile(r"[0-9a-fA-F]{64}")
_SIGNED = re.compile(
    r"(x-(amz|goog)-.*|signature|expires|awsaccesskeyid|googleaccessid|ossaccesskeyid|security-token|key-pair-id|policy"
    r"|(access_)?token)",
    re.IGNORECASE,
)
"""Query parameters that say who asks and not for what: a URL that is signed anew is still the same file."""
_SHARED = re.compile(r"s(v|s|rt|p|e|t|pr|ig|r|ip|i|koid|ktid|kt|ke|ks|kv)")
"""The parameters of Azure's shared access signatures, of which `sig` is always there."""


@dataclass(frozen=True, slots=True)
class Source:
    """A place that a model comes from."""

    scheme: str
    """ "" for a local path, also where it was given as file://."""
    url: str = field(repr=False)
    """What is asked for, credentials and all; a local path from the root."""
    shown: str
    """For messages and logs."""
    key: str
    """The same for the same file or folder, whoever asks."""
    name: str
    """Name of the file; "" when the URL ends in / and so is a folder."""
    packed: bool
    """Whether it is an archive."""
    sha256: str | None
    """Of the file, when the URL says it: #sha256=…"""

    @property
    def path(self) -> Path:
        """Of a local one."""
        return Path(self.url)

    @property
    def label(self) -> str:
        """Name of its folder in the cache: for people, and then unique."""
        readable = self.name or self.shown.rstrip("/").rpartition("/")[2]
        readable = re.sub(r"[^\w.-]", "_", readable.partition(".")[0])[:40].strip("._") or "model"
        return f"{readable}-{hashlib.sha256(f'{self.packed} {self.key}'.encode()).hexdigest()[:16]}"


def is_url(source: str) -> bool:
    """Whether it must be fetched from somewhere else."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() not in ("file", "zip+file")


def is_archive(name: str) -> bool:
    return name.lower().endswith(ARCHIVES)


def parse(source: str) -> Source:
    """Raises LoadError for what nobody here reads."""
    scheme, separator, rest = source.partition("://")
    if not separator:
        return _local(str(Path(source).expanduser()), source, None)
    scheme = scheme.lower()
    packed = scheme.startswith("zip+")  # zip+s3://…, as the platforms' paths have it
    scheme = scheme.removeprefix("zip+")
    if scheme in _HUB:
        model, colon, revision = rest.partition(":")
        also = f" --model_revision {revision}" if colon else ""
        raise LoadError(f"{shown(source)} is a model of the Hugging Face hub; give it as --model_id {model}{also}")
    if scheme == "store":
        raise LoadError(
            f"{shown(source)} is an entry of a platform's registry, which is not asked here; give the path that it "
            "stands for (s3://…, https://…)"
        )
    if scheme not in _KNOWN:
        known = ", ".join(f"{name}://" for name in _KNOWN)
        raise LoadError(f"{shown(source)} has a scheme that is not known here; give a local path or one of {known}")
    rest, sha256 = _digest(rest, source)
    if scheme == "file":
        host, slash, path = rest.partition("/")
        if host not in ("", "localhost") or not slash:
            raise LoadError(f"{shown(source)} names no file of this machine, as file:///models/bert does")
        return _local("/" + unquote(path), shown(source), sha256, packed)
    if scheme in BUCKETS:
        return _bucket(scheme, rest, packed, sha256)
    return _web(scheme, rest, packed, sha256)


def _local(path: str, given: str, sha256: str | None, packed: bool = False) -> Source:
    path = os.path.abspath(path)
    return Source("", path, given, path, Path(path).name, packed or is_archive(path), sha256)


def _bucket(scheme: str, rest: str, packed: bool, sha256: str | None) -> Source:
    url = f"{scheme}://{rest}"
    place = rest.partition("?versionId=")[0]
    bucket, _, path = place.partition("/")
    if not bucket or "@" in bucket:
        raise LoadError(f"{shown(url)} names no bucket, as {scheme}://bucket/folder/ does")
    name = path.rpartition("/")[2]
    # Two stores may have buckets of one name.
    store = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
    # A folder is given with and without a slash at its end.
    key = (f"{store} {url}" if scheme.startswith("s3") else url).rstrip("/")
    return Source(scheme, url, url, key, name, bool(name) and (packed or is_archive(name)), sha256)


def _web(scheme: str, rest: str, packed: bool, sha256: str | None) -> Source:
    url = f"{scheme}://{rest.partition('#')[0]}"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LoadError(f"{shown(url)} is no valid URL: {error}") from error
    name = re.sub(r"[/\\\x00-\x1f]", "_", unquote(parts.path.rpartition("/")[2]))[-200:]
    if not host or name in ("", ".", ".."):
        raise LoadError(
            f"{shown(url)} names no file; over {scheme} a model is one file, such as {scheme}://host/model.zip"
        )
    query = urlencode(list(_unsigned(parts.query)))
    key = f"{scheme}://{host}{f':{port}' if port else ''}{quote(unquote(parts.path))}{query and '?'}{query}"
    return Source(scheme, url, shown(url), key, name, packed or is_archive(name), sha256)


def _unsigned(query: str) -> Iterator[tuple[str, str]]:
    pairs = parse_qsl(query, keep_blank_values=True)
    shared = any(name == "sig" for name, _ in pairs)
    for name, value in pairs:
        if not _SIGNED.fullmatch(name) and not (shared and _SHARED.fullmatch(name)):
            yield name, value


def _digest(rest: str, source: str) -> tuple[str, str | None]:
    """The URL without `#sha256=…`, and the digest."""
    before, separator, digest = rest.rpartition("#sha256=")
    if not separator:
        return rest, None
    if not _SHA256.fullmatch(digest):
        raise LoadError(f"{shown(source)} has #sha256={digest}, and a SHA-256 has 64 hexadecimal digits")
    return before, digest.lower()
