"""TIFF: the first directory, and the tiles, strips and samples that it lays the picture out in."""

import struct
from math import ceil, prod

from errors import TooLarge
from preprocessing.structure.base import MOST_PICTURES, Structure, damaged
from preprocessing.structure.directory import Directory, TiffReader
from preprocessing.structure.orientation import MOST_XMP_BYTES, UPRIGHT, xmp_orientation

MOST_TILE_PADDING = 4 * 2**20
"""Tiles may cover so many pixels more than the picture, or twice as many: encoders write tiles 16 to 1,024 wide."""
_READ_TWICE = 2
"""Strips may add up to so many times the file; those of encoders do not overlap, but some count a little too much."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _XMP = 256, 257, 258, 259, 274, 700
_STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES, _SAMPLES = 279, 322, 323, 325, 277
_STRIPS, _TILES = 273, 324
_NEEDED = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _STRIPS, _SAMPLES, _STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILES}
_NEEDED |= {_TILE_BYTES, 254, 262, 266, 278, 284, 292, 293, 317, 320, 332, 338, 339, 347, 50674}
_NEEDED |= {*range(512, 522), 529, 530, 531, 532}
"""Sizes, samples, where the pixels are and how they are coded; not names, dates, profiles, EXIF or previews."""
_NONE, _JPEG, _UNKNOWN = 1, 7, (80, 10, 1.0)
_COSTS = dict.fromkeys((2, 3, 4, 5, 8, 32771, 32773, 32946), (80, 10, 0.0))
_COSTS |= {_NONE: (5, 10, 0.0), _JPEG: (150, 130, 0.0)}
"""By compression: nanoseconds a byte of the file and a decoded byte, and seconds. A JPEG strip may have 100 scans."""


def read_tiff(data: bytes) -> Structure:
    """Read the structure of a TIFF.

    Raises:
        InvalidImage: it is damaged, or has more tags or values than are read.
        TooLarge: its tiles or strips are much larger than the picture.
    """
    reader = TiffReader(data)
    first = reader.directory(reader.first)
    width, height = reader.value(first, _WIDTH, 0), reader.value(first, _HEIGHT, 0)
    decoded = _tiled_pixels(reader, first, width, height)
    decoded_bytes = decoded * max(1, reader.value(first, _SAMPLES, 1)) * max(1, reader.value(first, _BITS, 1)) / 8
    for tag in (_STRIP_BYTES, _TILE_BYTES):
        if (read := sum(reader.values(first, tag))) > _READ_TWICE * len(data):
            raise TooLarge(
                f"The TIFF file has {len(data):,} bytes, but its strips or tiles together {read:,}; at most "
                f"{_READ_TWICE * len(data):,} are read. Save the picture again and send that."
            )
    compression = reader.value(first, _COMPRESSION, _NONE)
    byte_ns, decoded_ns, more_s = _COSTS.get(compression, _UNKNOWN)
    seconds = more_s + 1e-9 * (byte_ns * len(data) + decoded_ns * decoded_bytes + 5 * width * height)
    turned = reader.value(first, _ORIENTATION, 0) or xmp_orientation(reader.text(first, _XMP, MOST_XMP_BYTES))
    return Structure(
        format="TIFF",
        width=width,
        height=height,
        pictures=_count_pictures(reader, first),
        orientation=turned if turned and 1 <= turned <= 8 else UPRIGHT,
        parts=_with_needed_tags(data, reader, first),
        seconds=seconds,
    )


def _tiled_pixels(reader: TiffReader, first: Directory, width: int, height: int) -> int:
    """Return how many pixels are decoded, with those of tiles beyond the picture's edges."""
    tile = reader.value(first, _TILE_WIDTH, 0), reader.value(first, _TILE_HEIGHT, 0)
    if not all(tile):
        return width * height
    covered = prod(ceil(length / side) * side for length, side in zip((width, height), tile, strict=True))
    allowed = max(2 * width * height, width * height + MOST_TILE_PADDING)
    if covered > allowed:
        raise TooLarge(
            f"The TIFF has tiles of {tile[0]:,} x {tile[1]:,} pixels, {covered:,} in all, for a picture of {width:,} x "
            f"{height:,}; at most {allowed:,} are decoded. Save it again with smaller tiles, or as a PNG."
        )
    return covered


def _count_pictures(reader: TiffReader, first: Directory) -> int:
    """Return how many directories follow each other; counting ends at `MOST_PICTURES`, and where one comes again."""
    seen, following = {reader.first}, first.following
    while following and following not in seen and len(seen) < MOST_PICTURES:
        seen.add(following)
        following = reader.following(following)
    return len(seen)


def _with_needed_tags(data: bytes, reader: TiffReader, first: Directory) -> list[bytes | memoryview]:
    """Return the parts of the file with one directory, at the end, which holds the needed tags alone."""
    if 0xBC01 in first.entries:
        raise damaged("it is a Windows Media Photo")
    entries = [entry.raw for tag, entry in sorted(first.entries.items()) if tag in _NEEDED]
    place = len(data) + len(data) % 2
    offset, count, end = ("Q", "Q", 16) if reader.is_big else ("L", "H", 8)
    header = data[: end - struct.calcsize(f"={offset}")] + struct.pack(reader.order + offset, place)
    directory = struct.pack(reader.order + count, len(entries)) + b"".join(entries)
    padding = b"\x00" * (place - len(data))
    return [header, memoryview(data)[end:], padding, directory, struct.pack(reader.order + offset, 0)]
