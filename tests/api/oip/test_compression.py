"""Compressed bodies, against Python's own gzip and zlib."""

import gzip
import zlib

import pytest

from api.oip.compression import accepted_encoding, compress, decompress
from errors import InvalidInput, TooLarge


def test_a_bomb_is_stopped_before_it_unpacks() -> None:
    bomb = gzip.compress(bytes(50_000_000))
    with pytest.raises(TooLarge, match="unpacks to more than 1,000"):
        decompress(bomb, "gzip", 1000)


def test_bodies_are_unpacked_by_their_encoding() -> None:
    assert decompress(zlib.compress(b"a" * 1000), "deflate", 1000) == b"a" * 1000
    assert decompress(gzip.compress(b"a"), " GZIP ", 1000) == b"a"
    assert decompress(b"a", "identity", 1000) == decompress(b"a", "", 1000) == b"a"


def test_responses_can_be_unpacked_by_any_client() -> None:
    assert gzip.decompress(compress(b"abc" * 999, "gzip")) == b"abc" * 999
    assert zlib.decompress(compress(b"abc" * 999, "deflate")) == b"abc" * 999


@pytest.mark.parametrize(
    ("body", "encoding", "message"),
    [
        (b"abc", "gzip", "not gzip"),
        (b"", "deflate", "not one whole"),
        (gzip.compress(b"a", mtime=0) + b"b", "gzip", "not one whole"),
        (b"a", "br", "'br' is not known"),
    ],
)
def test_damaged_bodies_are_refused(body: bytes, encoding: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decompress(body, encoding, 1000)


@pytest.mark.parametrize(
    ("accept_encoding", "size", "encoding"),
    [
        ("gzip, deflate, br", 5000, "gzip"),
        ("deflate", 5000, "deflate"),
        ("gzip;q=0, deflate;q=0.5", 5000, "deflate"),
        ("identity", 5000, None),
        ("", 5000, None),
        ("gzip", 100, None),
    ],
)
def test_a_response_is_compressed_as_the_client_accepts(accept_encoding: str, size: int, encoding: str | None) -> None:
    assert accepted_encoding(accept_encoding, size) == encoding
