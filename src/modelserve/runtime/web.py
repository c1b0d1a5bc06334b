"""One file over http(s) into the cache, by httpx2: one conditional GET, that goes on where the last one broke off.

Asks with GET only: URLs that are signed for GET refuse HEAD. Knows no archive and no model. Blocks; runs in the load
thread.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial

import httpx2

from modelserve.errors import LoadError
from modelserve.runtime.cache import Copy, Item, Part
from modelserve.runtime.checksums import Checksum
from modelserve.runtime.source import Source
from modelserve.runtime.transfer import Body, Unreachable, receive
from modelserve.urls import shown

_TIMEOUT = httpx2.Timeout(30.0, connect=10.0)
"""Seconds without a byte, and without a connection. Some stores take ten seconds for the first byte of a large file."""
_RANGE = re.compile(r"bytes (?P<start>\d+)-\d+/(?P<total>\d+|\*)")
_MD5 = re.compile(r'"[0-9a-f]{32}"')


def bring(
    source: Source, part: Part, copy: Copy | None, progress: Callable[[float], None], pauses_s: Iterable[float]
) -> bool:
    """The file in `part`; False when `copy` is what the remote has. Raises Unreachable, LoadError, or OSError."""

    def arrived() -> None:
        size = part.items[source.name].size
        progress(part.size(source.name) / size if size else 0.0)

    try:
        client = httpx2.Client(follow_redirects=True, timeout=_TIMEOUT, headers={"Accept-Encoding": "identity"})
    except (ValueError, ImportError) as error:  # an unknown scheme, or SOCKS without its package
        raise LoadError("the proxy in HTTP_PROXY, HTTPS_PROXY or ALL_PROXY is none that can be used") from error
    with client:
        ask = partial(_ask, client, source, part, copy)
        return receive(part, source.name, ask, shown=source.shown, arrived=arrived, pauses_s=pauses_s)


@contextmanager
def _ask(client: httpx2.Client, source: Source, part: Part, copy: Copy | None) -> Iterator[Body | None]:
    known, have = part.items.get(source.name), part.size(source.name)
    headers: dict[str, str] = {}
    if known and known.mark and have and have == known.size:
        headers = _unless(known)
    elif known and known.mark and have and not known.mark.startswith("W/"):  # If-Range takes no weak ETag (RFC 9110)
        headers = {"Range": f"bytes={have}-", "If-Range": known.mark}
    elif copy is not None:
        headers = _unless(copy.note.items[source.name])
    try:
        with client.stream("GET", source.url, headers=headers) as response:
            yield _body(response, source, part, copy)
    except httpx2.TooManyRedirects as error:
        raise Unreachable(f"{source.shown} redirects in a circle", passing=False) from error
    except httpx2.TimeoutException as error:
        raise Unreachable(f"{source.shown} does not answer in time", passing=True) from error
    except (httpx2.UnsupportedProtocol, httpx2.InvalidURL) as error:
        raise Unreachable(f"{source.shown} redirects to what is no URL of a web server", passing=False) from error
    except httpx2.RemoteProtocolError as error:
        raise Unreachable(f"{source.shown} broke off: {_first_line(error)}", passing=True) from error
    except httpx2.HTTPError as error:
        raise Unreachable(f"{source.shown} cannot be reached: {_first_line(error)}", passing=True) from error


def _body(response: httpx2.Response, source: Source, part: Part, copy: Copy | None) -> Body | None:
    """What the answer means."""
    known, have = part.items.get(source.name), part.size(source.name)
    if source.scheme == "https" and any(hop.url.scheme == "http" for hop in (*response.history, response)):
        raise Unreachable(f"{source.shown} redirects from https to http, where anybody may answer", passing=False)
    if response.status_code == 304:
        return Body(known, have, ()) if known and have and have == known.size else None
    if response.status_code == 206 and known is not None:
        sent = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if sent and int(sent["start"]) == have and sent["total"] in ("*", str(known.size)):
            return Body(known, have, response.iter_raw())
        part.drop(source.name)
        raise Unreachable(f"{source.shown} answers with bytes that were not asked for", passing=True)
    if response.status_code == 416:
        part.drop(source.name)
        raise Unreachable(f"{source.shown} is not as long as it was", passing=True)
    if response.status_code != 200:
        raise _refusal(response, source)
    kind = response.headers.get("Content-Type", "")
    if source.packed and kind.startswith("text/html"):
        raise Unreachable(f"{source.shown} is a web page and no archive; does it ask for a login?", passing=False)
    encoding = response.headers.get("Content-Encoding", "identity")
    if encoding != "identity" and not (encoding.endswith("gzip") and source.name.endswith(("gz", ".tgz"))):
        raise Unreachable(f"{source.shown} answers in {encoding}, and was asked for the file as it is", passing=False)
    item = _item(response, source)
    if item.same(known) and item.mark and have and have == item.size:
        return Body(item, have, ())
    if copy is not None and item.same(copy.note.items[source.name]) and (item.mark or item.size is not None):
        return None
    return Body(item, 0, response.iter_raw())


def _unless(item: Item) -> dict[str, str]:
    """The condition under which the file is wanted.

    No If-Modified-Since: a file that was replaced by an older one is not modified since. Without a condition the
    headers of the answer are compared, and its body is left.
    """
    return {"If-None-Match": item.mark} if item.mark.endswith('"') else {}


def _item(response: httpx2.Response, source: Source) -> Item:
    headers = response.headers
    length = headers.get("Content-Length", "")
    checksum = Checksum("sha256", source.sha256) if source.sha256 else _checksum(headers)
    mark = headers.get("ETag", "")
    if not mark.endswith('"'):  # none, or not quoted and so not what a condition may name
        mark = headers.get("Last-Modified", "")
    return Item(int(length) if length.isdecimal() else None, mark, checksum)


def _checksum(headers: httpx2.Headers) -> Checksum | None:
    """What the remote says of the content, and can be compared."""
    hashes = dict(pair.strip().partition("=")[::2] for pair in headers.get("x-goog-hash", "").split(","))
    for algorithm, encoded in (
        ("sha256", headers.get("x-amz-checksum-sha256")),
        ("md5", headers.get("Content-MD5")),
        ("md5", hashes.get("md5")),
    ):
        if encoded and (digest := _hexadecimal(encoded)):
            return Checksum(algorithm, digest)
    # S3's own ETag is the MD5 of what was uploaded in one piece and not encrypted with another's key.
    etag = headers.get("ETag", "")
    encrypted = headers.get("x-amz-server-side-encryption", "AES256") != "AES256"
    customer = "x-amz-server-side-encryption-customer-algorithm" in headers
    if headers.get("Server") == "AmazonS3" and _MD5.fullmatch(etag) and not encrypted and not customer:
        return Checksum("md5", etag.strip('"'))
    return None


def _hexadecimal(encoded: str) -> str | None:
    try:
        return base64.b64decode(encoded, validate=True).hex()
    except binascii.Error:  # S3's checksum of checksums, "…-3"
        return None


def _refusal(response: httpx2.Response, source: Source) -> Exception:
    code = response.status_code
    if code in (404, 410):
        return LoadError(f"there is nothing at {source.shown} ({code})")
    if code in (401, 403, 407):
        return Unreachable(
            f"{source.shown} refuses access ({code}); give a URL with a signature that has not expired, or with "
            "user:password@ before the host",
            passing=False,
        )
    return Unreachable(f"{source.shown} answers {code}", passing=code in (408, 425, 429) or code >= 500)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class _WithoutSecrets(logging.Filter):
    """httpx2 logs the URLs that it asks, where somebody lets it log."""

    def filter(self, record: logging.LogRecord) -> bool:
        if isinstance(record.args, tuple):
            record.args = tuple(shown(str(value)) if isinstance(value, httpx2.URL) else value for value in record.args)
        return True


logging.getLogger("httpx2").addFilter(_WithoutSecrets())
