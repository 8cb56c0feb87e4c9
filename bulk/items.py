"""What is scored: the items of one part, which a Slice names and can read again at any time, on any machine."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

Row = Mapping[str, Any]

MOST_CHUNK_ITEMS, MOST_CHUNK_BYTES = 256, 16 * 2**20
"""So much is read at once; what waits to be scored is a few times as much, whatever the size of a part."""


_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class Item(NamedTuple):
    """One input as it was read.

    Attributes:
        input: its name in the output: a path, an address, `archive.zip!member`, `table.csv#row`.
        payload: an encoded picture, or a row; None for what could not be read.
        error: why it could not be read; empty where it could.
    """

    input: str
    payload: bytes | Row | None
    error: str = ""


class Slice(Protocol):
    """The items of one part: where they are, not what they hold."""

    @property
    def count(self) -> int:
        """The number of items."""

    def chunks(self, most_bytes: int) -> Iterator[list[Item]]:
        """Read the items in their order, some at a time; what cannot be read is an item with an error.

        Args:
            most_bytes: the size of the largest picture that is read.
        """

    def to_json(self) -> dict[str, Any]:
        """Return what `bulk.source.slice_from_json` makes the same slice of."""


def digest_of(payload: bytes | Row) -> str:
    """Return the sha256 of a picture's bytes, or of a row's JSON with its names sorted, in hexadecimal."""
    if not isinstance(payload, bytes):
        payload = _encode(payload).encode()
    return hashlib.sha256(payload).hexdigest()


def too_large(size: int, most_bytes: int) -> str:
    """Return the error of a picture that is not read because of its size."""
    return f"The file has {size:,} bytes; a picture may have at most {most_bytes:,}."
