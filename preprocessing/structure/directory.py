"""A TIFF directory, in which TIFF files, EXIF and multi-picture JPEGs keep their tags: read within limits."""

import struct
from typing import NamedTuple

from preprocessing.structure.base import damaged, too_many

MOST_ENTRIES = 1_000
"""Cameras write fewer than 100 tags, microscopes a few hundred."""
MOST_VALUES = 250_000
"""The most values of one tag that are read: a colour map has the most, 196,608."""

_UNITS = {1: "B", 2: "s", 3: "H", 4: "L", 5: "8s", 6: "b", 7: "s", 8: "h", 9: "l", 10: "8s", 11: "f", 12: "d"}
_UNITS |= {13: "L", 16: "Q", 17: "q", 18: "Q"}
_SIZES = {kind: struct.calcsize(f"={unit}") for kind, unit in _UNITS.items()}
WHOLE = {1, 3, 4, 13, 16, 18}
"""The types of tags that hold whole numbers without a sign."""
_ALIASES = {b"MM\x2a\x00": (">", 42), b"II\x00\x2a": ("<", 42)}  # some programs write these, and Pillow reads them


class Entry(NamedTuple):
    """One tag: its type, its number of values, where they begin, and the entry's own bytes."""

    kind: int
    length: int
    offset: int
    raw: bytes


class Directory(NamedTuple):
    """One directory of a TIFF structure.

    Attributes:
        entries: by tag; of a tag that comes twice, the first.
        following: where the next directory begins; 0 for none.
    """

    entries: dict[int, Entry]
    following: int


class TiffReader:
    """Reads the directories of a TIFF structure.

    Args:
        data: begins with the byte order.

    Raises:
        InvalidImage: it does not begin as TIFF does.
    """

    def __init__(self, data: bytes) -> None:
        order, version = _ALIASES.get(data[:4], (">" if data[:2] == b"MM" else "<", 0))
        if not version and len(data) >= 4 and data[:2] in (b"MM", b"II"):
            (version,) = struct.unpack_from(f"{order}H", data, 2)
        if version not in (42, 43) or (version == 43 and order == ">"):
            raise damaged("it does not begin as TIFF does")
        self._data, self.order, self.is_big = data, order, version == 43
        self.first = self._unpack("Q", 8)[0] if self.is_big else self._unpack("L", 4)[0]

    def directory(self, offset: int) -> Directory:
        """Return the directory at an offset.

        Raises:
            InvalidImage: it is cut short or has more than `MOST_ENTRIES` entries.
        """
        count, place = self._count(offset)
        size, inline = (20, 8) if self.is_big else (12, 4)
        entries = dict[int, Entry]()
        for start in range(place, place + size * count, size):
            tag, kind, values = self._unpack("HHQ" if self.is_big else "HHL", start)
            at = start + size - inline
            is_inline = _SIZES.get(kind, 0) * values <= inline
            where = at if is_inline else self._unpack("Q" if self.is_big else "L", at)[0]
            entries.setdefault(tag, Entry(kind, values, where, self._data[start : start + size]))
        return Directory(entries, self.following(offset))

    def following(self, offset: int) -> int:
        """Return where the directory after the one at an offset begins; 0 for none."""
        count, place = self._count(offset)
        return self._unpack("Q", place + 20 * count)[0] if self.is_big else self._unpack("L", place + 12 * count)[0]

    def values(self, directory: Directory, tag: int) -> tuple[int, ...]:
        """Return the whole numbers of a tag; none where it is missing or holds no whole numbers.

        Raises:
            InvalidImage: they are cut short or more than `MOST_VALUES`.
        """
        entry = directory.entries.get(tag)
        if entry is None or entry.kind not in WHOLE:
            return ()
        if entry.length > MOST_VALUES:
            raise too_many("TIFF", f"values of tag {tag}", MOST_VALUES)
        return self._unpack(f"{entry.length}{_UNITS[entry.kind]}", entry.offset)

    def value(self, directory: Directory, tag: int, default: int) -> int:
        """Return the first whole number of a tag, or the default where there is none.

        Raises:
            InvalidImage: it is cut short.
        """
        entry = directory.entries.get(tag)
        if entry is None or entry.kind not in WHOLE or not entry.length:
            return default
        return self._unpack(_UNITS[entry.kind], entry.offset)[0]

    def text(self, directory: Directory, tag: int, most: int) -> bytes:
        """Return at most so many bytes of a tag that holds bytes; none where it is missing."""
        entry = directory.entries.get(tag)
        if entry is None or entry.kind not in (1, 2, 7):
            return b""
        return self._data[entry.offset : entry.offset + min(entry.length, most)]

    def _count(self, offset: int) -> tuple[int, int]:
        """Return how many entries a directory has, and where the first of them begins."""
        (count,) = self._unpack("Q" if self.is_big else "H", offset)
        if count > MOST_ENTRIES:
            raise too_many("TIFF", "tags in a directory", MOST_ENTRIES)
        return count, offset + (8 if self.is_big else 2)

    def _unpack(self, layout: str, offset: int) -> tuple[int, ...]:
        try:
            return struct.unpack_from(self.order + layout, self._data, offset)
        except (struct.error, OverflowError) as error:
            raise damaged("a TIFF directory points beyond the end") from error
