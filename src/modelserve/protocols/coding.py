"""Content codings of HTTP bodies: gzip and deflate, in and out. Knows no route and no JSON.

`decompress` and `compress` are plain functions: small bodies are worked on the event loop, large ones on a thread (the
library releases the GIL). ISA-L instead of zlib because an answer of 8 KB costs 19 us with it and 52 us without, and
Python's HTTP clients ask for gzip whether they want it or not.
"""

from __future__ import annotations

import re
from zlib import MAX_WBITS

from isal import isal_zlib

from modelserve.errors import InvalidRequest, RequestTooLarge, UnsupportedMedia
from modelserve.protocols.aside import aside

_GZIP_WBITS = MAX_WBITS + 16
_LEVEL = 1
_NOT_AT_ALL = re.compile(r"q=0(\.0*)?")
_Damaged: type[Exception] = isal_zlib.error  # type: ignore[assignment]  # the stub says an instance


def _window(encoding: str, data: bytes) -> int:
    """zlib's `wbits` for a coding. `deflate` means the zlib format, but some clients send it without its header."""
    if encoding in ("gzip", "x-gzip"):
        return _GZIP_WBITS
    if encoding != "deflate":
        raise UnsupportedMedia(
            f"Content-Encoding '{encoding}' is not read here; send the body as gzip, deflate or identity."
        )
    has_header = len(data) >= 2 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return MAX_WBITS if has_header else -MAX_WBITS


def too_large(limit: int) -> RequestTooLarge:
    return RequestTooLarge(f"The body is larger than the {limit} bytes that --payload_limit allows; send fewer texts.")


def decompress(data: bytes, encoding: str, limit: int) -> bytes:
    """The body behind one Content-Encoding. Never holds more than `limit` bytes of it.

    Raises UnsupportedMedia for another coding, RequestTooLarge above `limit`, InvalidRequest for damaged data.
    """
    if encoding == "identity":
        return data
    window = _window(encoding, data)
    decoder = isal_zlib.decompressobj(wbits=window)
    try:
        plain: bytes = decoder.decompress(data, limit + 1)
    except _Damaged as error:
        raise InvalidRequest(f"The body is not valid {encoding} data, as its Content-Encoding says it is.") from error
    if len(plain) > limit:
        raise too_large(limit)
    # One gzip member, as HTTP clients send it: walking through members end to end is quadratic in a hostile body.
    if not decoder.eof or decoder.unused_data:
        raise InvalidRequest(
            f"The body must be one whole {encoding} stream; it ends too early or has more after its end."
        )
    return plain


def compress(data: bytes) -> bytes:
    """`data` as one gzip member."""
    encoder = isal_zlib.compressobj(_LEVEL, isal_zlib.DEFLATED, _GZIP_WBITS)
    return encoder.compress(data) + encoder.flush()


def wants_gzip(accept_encoding: str) -> bool:
    """Whether an Accept-Encoding header names gzip, or everything, with a weight above 0."""
    if not accept_encoding:
        return False
    weights = {}
    for item in accept_encoding.lower().split(","):
        name, _, parameter = item.partition(";")
        weights[name.strip()] = parameter.replace(" ", "")
    return not _NOT_AT_ALL.fullmatch(weights.get("gzip", weights.get("*", "q=0")))


async def decompressed(data: bytes, encoding: str, limit: int) -> bytes:
    return await aside(len(data), decompress, data, encoding, limit)


async def compressed(data: bytes) -> bytes:
    return await aside(len(data), compress, data)
