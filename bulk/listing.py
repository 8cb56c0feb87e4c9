"""The listing: every part of a run with its slice, kept in a file so that its memory does not grow with the source."""

import hashlib
import json
import sqlite3
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from bulk.items import Slice
from bulk.source import Listed, slice_from_json


class Listing:
    """The slices of a source by their numbers.

    Args:
        file: where they are kept.
    """

    def __init__(self, file: Path) -> None:
        self._database = sqlite3.connect(file, check_same_thread=False)

    @classmethod
    def write(cls, file: Path, slices: Iterable[Listed], asked: str) -> "Listing":
        """List a source anew.

        Args:
            file: is replaced.
            slices: of the source.
            asked: what else the content of a part depends on: model, parameters, columns.

        Raises:
            BulkError: as `Source.slices`.
        """
        for name in (file.name, f"{file.name}-journal"):
            file.with_name(name).unlink(missing_ok=True)
        listing = cls(file)
        with listing._database as database:
            database.execute("PRAGMA synchronous=OFF")
            database.execute("CREATE TABLE parts (part INTEGER PRIMARY KEY, rows INTEGER, digest TEXT, slice BLOB)")
            for part, (items, changed) in enumerate(slices):
                text = json.dumps(items.to_json(), sort_keys=True)
                digest = hashlib.sha256(f"{asked}\0{changed}\0{text}".encode("utf-8", "surrogatepass")).hexdigest()
                row = part, items.count, digest[:32], zlib.compress(text.encode(), 1)
                database.execute("INSERT INTO parts VALUES (?, ?, ?, ?)", row)
        return listing

    def parts(self) -> Iterator[tuple[int, int, str]]:
        """Yield number, rows and digest of every part; equal digests mean equal content."""
        yield from self._database.execute("SELECT part, rows, digest FROM parts ORDER BY part")

    def slice(self, part: int) -> Slice:
        """Return the slice of a part."""
        (blob,) = self._database.execute("SELECT slice FROM parts WHERE part = ?", (part,)).fetchone()
        return slice_from_json(json.loads(zlib.decompress(blob)))

    def digest(self, part: int) -> str:
        """Return the digest of a part."""
        (digest,) = self._database.execute("SELECT digest FROM parts WHERE part = ?", (part,)).fetchone()
        return str(digest)

    def close(self) -> None:
        """Close the file."""
        self._database.close()
