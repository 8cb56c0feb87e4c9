"""PNG: chunks. Those that the pixels do not depend on are left out: text and colour profiles inflate a thousandfold."""

import struct
import zlib

from preprocessing.structure.base import Structure, damaged, too_many
from preprocessing.structure.orientation import MOST_XMP_BYTES, orientation

_CHUNKS, _BYTES_A_CHUNK = 1_000, 512
"""A file may have so many chunks, and one of pixels more for so many bytes: encoders put 4 KiB or more into one."""
MAGIC = b"\x89PNG\r\n\x1a\n"

_NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
_XMP_KEYWORD = b"XML:com.adobe.xmp\x00\x00"
_RAW_EXIF_KEYWORD = b"Raw profile type exif\x00"


def read_png(data: bytes) -> Structure:
    """Read the structure of a PNG.

    Raises:
        InvalidImage: it is damaged, or has more chunks than are read.
    """
    kept, pixels, size, samples = list[bytes](), list[memoryview](), (0, 0), 0.0
    exif, raw_exif, xmp, interlaced = b"", b"", b"", False
    animation, pixels_are_a_frame, pixels_end, others = 0, False, False, 0
    view, place, most = memoryview(data), len(MAGIC), _CHUNKS + len(data) // _BYTES_A_CHUNK
    for _ in range(most):
        if place + 8 > len(data):
            raise damaged("it ends before its last chunk")
        length, kind = struct.unpack_from(">I4s", data, place)
        others += kind != b"IDAT"
        if others > _CHUNKS:
            raise too_many("PNG", "chunks beside those of pixels", _CHUNKS)
        start, end = place + 8, place + 8 + length
        content = view[start:end]
        pixels_end = pixels_end or (bool(pixels) and kind != b"IDAT")
        if not pixels and kind != b"IDAT":
            _check_sum(view, place, end)
        if (kind == b"IHDR") != (place == len(MAGIC)):
            raise damaged("its header is not its first chunk alone")
        if kind == b"IHDR":
            if length < 13:
                raise damaged("its header is cut short")
            *size_read, depth, colour = struct.unpack_from(">IIBB", content)
            size, interlaced = (size_read[0], size_read[1]), bool(content[12])
            samples = _SAMPLES.get(colour, 4) * depth / 8
        elif kind == b"eXIf":
            exif = bytes(content[:MOST_XMP_BYTES])
        elif kind == b"tEXt" and content[: len(_RAW_EXIF_KEYWORD)] == _RAW_EXIF_KEYWORD:
            raw_exif = bytes(content[len(_RAW_EXIF_KEYWORD) : MOST_XMP_BYTES])
        elif kind == b"iTXt" and content[: len(_XMP_KEYWORD)] == _XMP_KEYWORD:
            xmp = bytes(content[len(_XMP_KEYWORD) : MOST_XMP_BYTES])
        elif kind == b"acTL" and length >= 8 and not pixels:
            (animation,) = struct.unpack_from(">I", content)
        elif kind == b"fcTL" and not pixels:
            pixels_are_a_frame = True
        if kind == b"IDAT" and not pixels_end:
            pixels.append(content)
        elif kind == b"IEND" or (kind in _NEEDED and not pixels):
            kept.append(data[place : end + 4])
        place = end + 4
        if kind == b"IEND":
            break
        if end > len(data):
            break  # the decoder says where the pixels end
    else:
        raise too_many("PNG", "chunks", most)
    width, height = size
    inflated = width * height * samples
    return Structure(
        format="PNG",
        width=width,
        height=height,
        pictures=animation + (not pixels_are_a_frame) if animation else 1,
        orientation=orientation(exif or _from_hex(raw_exif), xmp),
        parts=_assembled(kept, pixels),
        seconds=1e-9 * (80 * len(data) + 8 * inflated + (20 if interlaced else 5) * width * height),
    )


def _assembled(kept: list[bytes], pixels: list[memoryview]) -> list[bytes | memoryview]:
    """Return the parts of a PNG with all pixels in one chunk, whose sum decoders of pixels do not look at."""
    last = [kept.pop()] if kept and kept[-1][4:8] == b"IEND" else []
    length = struct.pack(">I", sum(len(part) for part in pixels))
    return [MAGIC, *kept, length, b"IDAT", *pixels, bytes(4), *last]


def _check_sum(view: memoryview, place: int, end: int) -> None:
    """Raise InvalidImage unless a chunk is complete and its sum right."""
    if end + 4 > len(view) or zlib.crc32(view[place + 4 : end]) != int.from_bytes(view[end : end + 4], "big"):
        raise damaged(f"the chunk {bytes(view[place + 4 : place + 8])!r} has a wrong sum")


def _from_hex(profile: bytes) -> bytes:
    """Return the EXIF block that ImageMagick writes as hexadecimal digits below three lines of header."""
    try:
        return bytes.fromhex("".join(profile.decode("latin-1").split("\n")[3:]))
    except ValueError:
        return b""
