"""TIFF: the first directory, and the tiles, strips and samples that it lays the picture out in."""

import struct
from math import ceil, prod

from errors import TooLarge
from preprocessing.structure.base import MOST_PICTURES, Structure, damaged, too_many
from preprocessing.structure.directory import MOST_VALUES, WHOLE, Directory, TiffReader
from preprocessing.structure.orientation import MOST_XMP_BYTES, UPRIGHT, xmp_orientation

MOST_TILE_PADDING = 4 * 2**20
"""Tiles may cover so many pixels more than the picture, or twice as many: encoders write tiles 16 to 1,024 wide."""
_READ_TWICE = 2
"""Strips may add up to so many times the file; those of encoders do not overlap, but some count a little too much."""

MOST_STRIPS = 2**16
"""The most strips or tiles that are read; 50 megapixels in tiles of 32 x 32, which are small ones, have 48,829."""
_MORE_STRIPS, _STRIP_NS = 16, 20_000
"""How many more strips may be listed than the picture has, and what Pillow takes for each, in nanoseconds."""

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION, _XMP = 256, 257, 258, 259, 274, 700
_STRIP_BYTES, _TILE_WIDTH, _TILE_HEIGHT, _TILE_BYTES, _SAMPLES = 279, 322, 323, 325, 277
_STRIPS, _TILES, _ROWS_A_STRIP, _PLANES, _COLOUR_MAP, _JPEG_TABLES = 273, 324, 278, 284, 320, 347
_LAYOUT = {_WIDTH, _HEIGHT, _BITS, _COMPRESSION, 262, _STRIPS, _SAMPLES, _ROWS_A_STRIP, _STRIP_BYTES, _PLANES}
_LAYOUT |= {_TILE_WIDTH, _TILE_HEIGHT, _TILES, _TILE_BYTES, 338, 339}
"""The tags that say how the pixels lie, which are whole numbers without a sign."""
_NEEDED = {*_LAYOUT, 254, 266, 292, 293, 317, _COLOUR_MAP, 332, _JPEG_TABLES, *range(512, 522), *range(529, 533), 50674}
"""Sizes, samples, where the pixels are and how they are coded; not names, dates, profiles, EXIF or previews."""
_MOST_VALUES = dict.fromkeys((_STRIPS, _TILES, _STRIP_BYTES, _TILE_BYTES), MOST_STRIPS)
_MOST_VALUES |= {_COLOUR_MAP: MOST_VALUES, _JPEG_TABLES: 2**16}
_MOST_OTHER_VALUES = 64
"""The most values of a needed tag: many for strips, colours and tables of bytes, and for others one a sample or so."""
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
    _check_tags(first)
    width, height = reader.value(first, _WIDTH, 0), reader.value(first, _HEIGHT, 0)
    decoded = _tiled_pixels(reader, first, width, height)
    decoded_bytes = decoded * max(1, reader.value(first, _SAMPLES, 1)) * max(1, reader.value(first, _BITS, 1)) / 8
    strips = _count_strips(reader, first, width, height)
    for tag in (_STRIP_BYTES, _TILE_BYTES):
        if (read := sum(reader.values(first, tag))) > _READ_TWICE * len(data):
            raise TooLarge(
                f"The TIFF file has {len(data):,} bytes, but its strips or tiles together {read:,}; at most "
                f"{_READ_TWICE * len(data):,} are read. Save the picture again and send that."
            )
    compression = reader.value(first, _COMPRESSION, _NONE)
    byte_ns, decoded_ns, more_s = _COSTS.get(compression, _UNKNOWN)
    strips_ns = _STRIP_NS * strips
    seconds = more_s + 1e-9 * (strips_ns + byte_ns * len(data) + decoded_ns * decoded_bytes + 5 * width * height)
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


def _check_tags(first: Directory) -> None:
    """Raise InvalidImage where a needed tag has more values than programs write, or a layout tag no whole numbers."""
    for tag, entry in first.entries.items():
        most = _MOST_VALUES.get(tag, _MOST_OTHER_VALUES)
        if tag in _NEEDED and entry.length > most:
            raise too_many("TIFF", f"values of tag {tag}", most)
        if tag in _LAYOUT and entry.kind not in WHOLE:
            raise damaged(f"tag {tag} holds no whole numbers without a sign")


def _count_strips(reader: TiffReader, first: Directory, width: int, height: int) -> int:
    """Return how many strips or tiles the directory lists.

    Raises:
        InvalidImage: it lists more than the picture has.
    """
    planes = max(1, reader.value(first, _SAMPLES, 1)) if reader.value(first, _PLANES, 1) == 2 else 1
    rows = min(height, reader.value(first, _ROWS_A_STRIP, height))
    tile = reader.value(first, _TILE_WIDTH, 0), reader.value(first, _TILE_HEIGHT, 0)
    strips = planes * ceil(height / max(1, rows))
    tiles = planes * ceil(width / max(1, tile[0])) * ceil(height / max(1, tile[1]))
    for tag, most in ((_STRIPS, strips), (_TILES, tiles), (_STRIP_BYTES, strips), (_TILE_BYTES, tiles)):
        if tag in first.entries and first.entries[tag].length > most + _MORE_STRIPS:
            raise damaged(
                f"tag {tag} lists {first.entries[tag].length:,} strips or tiles, and the picture has {most:,}"
            )
    return max((first.entries[tag].length for tag in (_STRIPS, _TILES) if tag in first.entries), default=0)


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
