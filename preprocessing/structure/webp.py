"""WebP: chunks. Profiles and metadata are left out."""

import struct

from preprocessing.structure.base import Structure, damaged, too_many
from preprocessing.structure.orientation import MOST_XMP_BYTES, orientation

MOST_CHUNKS = 1_000
"""A still picture has at most six chunks, an animation one a frame."""

_FIRST_CHUNK = 12
_PIXELS = (b"VP8 ", b"VP8L", b"ALPH", b"ANIM", b"ANMF")
_METADATA_FLAGS = 0x2C
"""The flags of the extended header that announce a colour profile, EXIF and XMP."""


def read_webp(data: bytes) -> Structure:
    """Read the structure of a WebP.

    Raises:
        InvalidImage: it is damaged, or has more chunks than are read.
    """
    end = min(len(data), 8 + int.from_bytes(data[4:8], "little"))
    kept, size, pictures = list[bytes | memoryview](), (0, 0), 0
    exif, xmp, lossless, animated = b"", b"", False, False
    place = _FIRST_CHUNK
    for _ in range(MOST_CHUNKS):
        if place + 8 > end:
            break
        kind, length = struct.unpack_from("<4sI", data, place)
        content, following = place + 8, place + 8 + length + length % 2
        if kind == b"VP8X":
            if place != _FIRST_CHUNK:
                raise damaged("its extended header is not its first chunk")
            header = bytearray(data[place:following])
            if len(header) < 18:
                raise damaged("its header is cut short")
            header[8] &= ~_METADATA_FLAGS
            kept.append(bytes(header))
            size = int.from_bytes(header[12:15], "little") + 1, int.from_bytes(header[15:18], "little") + 1
        elif kind in _PIXELS:
            lossless = lossless or kind != b"VP8 "
            animated = animated or kind == b"ANMF"
            kept.append(memoryview(data)[place:following])
            pictures += kind in (b"VP8 ", b"VP8L", b"ANMF")
            if not size[0]:
                size = _size(kind, data[content : content + 10])
        elif kind == b"EXIF":
            exif = data[content : content + min(length, MOST_XMP_BYTES)]
        elif kind == b"XMP ":
            xmp = data[content : content + min(length, MOST_XMP_BYTES)]
        place = following
    else:
        raise too_many("WebP", "chunks", MOST_CHUNKS)
    if not pictures:
        raise damaged("there is no picture in it")
    width, height = size
    length = 4 + sum(len(part) for part in kept)
    return Structure(
        format="WEBP",
        width=width,
        height=height,
        pictures=pictures,
        orientation=orientation(exif, xmp),
        parts=[b"RIFF" + length.to_bytes(4, "little") + b"WEBP", *kept],
        # Each 16 pixels of a lossless picture may have codes of their own, of 5 to 19 kB.
        seconds=1e-9 * (60 * len(data) + (2_000 if lossless else 40) * width * height),
        plain=not animated,
    )


def _size(kind: bytes, start: bytes) -> tuple[int, int]:
    """Return width and height from the first ten bytes of a chunk of pixels."""
    if kind == b"VP8 " and len(start) == 10:
        width, height = struct.unpack_from("<HH", start, 6)
        return width & 0x3FFF, height & 0x3FFF
    if kind == b"VP8L" and len(start) >= 5:
        bits = int.from_bytes(start[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    raise damaged("its header is cut short")
