"""gzip and deflate bodies, sound and hostile, and what Accept-Encoding asks for."""

from __future__ import annotations

import gzip
import zlib

import pytest

from modelserve.errors import InvalidRequest, RequestTooLarge, UnsupportedMedia
from modelserve.protocols.coding import compress, compressed, decompress, decompressed, wants_gzip

TEXT = b'{"instances": ["Hello world"]}' * 50
RAW_DEFLATE = zlib.compress(TEXT)[2:-4]


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", gzip.compress(TEXT, mtime=0)),
        ("x-gzip", gzip.compress(TEXT, mtime=0)),
        ("deflate", zlib.compress(TEXT)),
        ("deflate", RAW_DEFLATE),
        ("identity", TEXT),
    ],
)
def test_a_body_is_decoded(encoding: str, body: bytes) -> None:
    assert decompress(body, encoding, len(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b""),
        ("gzip", TEXT),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-1]),
        ("gzip", gzip.compress(TEXT, mtime=0)[:30]),
        ("gzip", gzip.compress(TEXT, mtime=0) + b"more"),
        ("gzip", gzip.compress(TEXT, mtime=0) * 2),
        ("gzip", gzip.compress(TEXT, mtime=0)[:-8] + bytes(8)),
        ("gzip", zlib.compress(TEXT)),
        ("deflate", b""),
        ("deflate", b"\x78"),
        ("deflate", TEXT),
        ("deflate", zlib.compress(TEXT)[:-5]),
    ],
)
def test_a_damaged_body_is_the_callers_mistake(encoding: str, body: bytes) -> None:
    with pytest.raises(InvalidRequest, match=encoding) as caught:
        decompress(body, encoding, 1 << 20)
    assert type(caught.value) is InvalidRequest


def test_a_bomb_is_refused_at_the_limit() -> None:
    bomb = gzip.compress(bytes(50 << 20))
    assert len(bomb) < 1 << 17
    with pytest.raises(RequestTooLarge, match="1000 bytes"):
        decompress(bomb, "gzip", 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_another_coding_is_refused(encoding: str) -> None:
    with pytest.raises(UnsupportedMedia, match=encoding):
        decompress(TEXT, encoding, 1 << 20)


async def test_large_bodies_are_coded_the_same_on_a_thread() -> None:
    large = bytes(range(256)) * 4096
    assert gzip.decompress(await compressed(large)) == large
    packed = gzip.compress(large, 0, mtime=0)
    assert await decompressed(packed, "gzip", len(large)) == large
    assert gzip.decompress(compress(TEXT)) == TEXT


@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("deflate, gzip;q=0.5", True),
        ("gzip, deflate, br, zstd", True),
        ("*", True),
        ("*;q=0.1", True),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=0, *", False),
        ("*;q=0", False),
        ("identity", False),
    ],
)
def test_what_accept_encoding_asks_for(header: str, wanted: bool) -> None:
    assert wants_gzip(header) is wanted
