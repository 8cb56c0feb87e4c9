"""Ordinary pictures in every format that is read, and how files of each format come apart into parts and together."""

import io
import re
import struct
import zlib
from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image

UInt8Array = npt.NDArray[np.uint8]
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def encode(image: UInt8Array | Image.Image, kind: str, **options: Any) -> bytes:
    """Return a picture as a file of one of Pillow's formats."""
    buffer = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(buffer, kind, **options)
    return buffer.getvalue()


def as_png(image: UInt8Array) -> bytes:
    """Return a picture as a PNG, whose header ends at byte 33."""
    return encode(image, "PNG")


def as_progressive_jpeg(image: UInt8Array) -> bytes:
    """Return a picture as a progressive JPEG."""
    return encode(image, "JPEG", progressive=True, quality=50)


def png_chunk(kind: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG with its right sum."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


class Seed(NamedTuple):
    """An ordinary file, in parts that can be repeated, resized and moved.

    Attributes:
        name: the format.
        parts: the parts in order; the first one begins the file.
        join: makes a file of parts.
    """

    name: str
    parts: list[bytes]
    join: Callable[[list[bytes]], bytes]


def seeds(image: UInt8Array) -> list[Seed]:
    """Return files of every format, with metadata, of one RGB picture."""
    picture = Image.fromarray(image)
    exif = Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    with_exif: dict[str, Any] = {"exif": exif}
    animation: dict[str, Any] = {"save_all": True, "append_images": [picture.rotate(90)], "duration": 10}
    jpegs = [with_exif, {"progressive": True}, {"restart_marker_blocks": 2}, {"progressive": True, "subsampling": 0}]
    jpegs += [{"progressive": True, "restart_marker_blocks": 1}]
    jpeg_files = [encode(image, "JPEG", **options) for options in jpegs] + [encode(picture.convert("CMYK"), "JPEG")]
    pngs = [encode(image, "PNG", **with_exif), encode(picture.quantize(16), "PNG"), encode(image, "PNG", **animation)]
    gifs = [encode(picture.quantize(64), "GIF", comment=b"text"), encode(image, "GIF", **animation)]
    tiffs = [encode(image, "TIFF", compression=name) for name in ("raw", "tiff_lzw", "tiff_adobe_deflate", "jpeg")]
    tiffs += [encode(image, "TIFF", **with_exif), encode(picture.convert("1"), "TIFF", compression="group4")]
    webps = [
        encode(image, "WEBP", **with_exif),
        encode(image, "WEBP", lossless=True),
        encode(image, "WEBP", **animation),
    ]
    bmps = [encode(image, "BMP"), encode(picture.quantize(256), "BMP"), _run_length_bmp(image)]
    return [
        *(Seed("JPEG", _jpeg_parts(data), b"".join) for data in jpeg_files),
        *(Seed("PNG", _png_parts(data), _join_png) for data in pngs),
        *(Seed("GIF", _gif_parts(data), b"".join) for data in gifs),
        *(Seed("TIFF", _pieces(data, 12), b"".join) for data in tiffs),
        *(Seed("WEBP", _riff_parts(data), _join_riff) for data in webps),
        *(Seed("BMP", _pieces(data, 4), b"".join) for data in bmps),
    ]


def _run_length_bmp(image: UInt8Array) -> bytes:
    height, width = image.shape[:2]
    palette = b"".join(bytes([level, level, 255 - level, 0]) for level in range(256))
    rows = b"".join(bytes([3, level]) + b"\x00\x03abc\x00" + b"\x00\x02\x01\x01\x00\x00" for level in range(height))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    place = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", place + len(rows), 0, 0, place) + header + palette + rows


def _jpeg_parts(data: bytes) -> list[bytes]:
    places = [match.start() for match in _MARKER.finditer(data)] + [len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def _png_parts(data: bytes) -> list[bytes]:
    parts, place = [data[:8]], 8
    while place < len(data):
        end = place + 12 + int.from_bytes(data[place : place + 4], "big")
        parts.append(data[place:end])
        place = end
    return parts


def _join_png(parts: list[bytes]) -> bytes:
    """Join chunks, whose lengths and sums are made right: a wrong one would end the reading there."""
    chunks = [png_chunk(part[4:8].ljust(4, b"a"), part[8:-4]) for part in parts[1:] if len(part) >= 12]
    return parts[0] + b"".join(chunks)


def _riff_parts(data: bytes) -> list[bytes]:
    parts, place = [data[:12]], 12
    while place < len(data):
        length = int.from_bytes(data[place + 4 : place + 8], "little")
        parts.append(data[place : place + 8 + length + length % 2])
        place += len(parts[-1])
    return parts


def _join_riff(parts: list[bytes]) -> bytes:
    """Join chunks under a header with their right length."""
    body = b"".join(parts[1:])
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def _gif_parts(data: bytes) -> list[bytes]:
    table = 3 << ((data[10] & 7) + 1) if data[10] & 0x80 else 0
    places = [0, 13, 13 + table]
    for mark in (b"!\xf9", b"!\xfe", b"!\xff", b"\x00,", b"\x00;"):
        start = 13 + table
        while (start := data.find(mark, start)) >= 0:
            places.append(start + mark.startswith(b"\x00"))
            start += 1
    places = [*sorted(set(places)), len(data)]
    return [data[start:end] for start, end in pairwise(places)]


def _pieces(data: bytes, size: int) -> list[bytes]:
    """Return a file in a header and pieces of one size; at its end for TIFF, at its start for BMP, lie its fields."""
    return [data[place : place + size] for place in range(0, len(data), size)]
