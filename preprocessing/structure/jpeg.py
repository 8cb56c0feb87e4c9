"""JPEG: segments and scans. A progressive file repeats scans over all of its pixels, each of a few bytes."""

import re
from typing import NamedTuple

from errors import InvalidImage
from preprocessing.structure.base import Structure, damaged, too_many
from preprocessing.structure.directory import TiffReader
from preprocessing.structure.orientation import orientation

MOST_SEGMENTS = 1_000
"""All of 32 MiB in full segments are 512; a flood has them by the million."""
MOST_SCANS = 100
"""Encoders write 6 to 14 scans, the finest script for four components some 60; libvips refuses from 100 on, too."""
_MOST_JUNK_BYTES = 2**16
"""Between segments decoders skip what is no marker; beyond this there is none."""
_WINDOW_BYTES = 2**18
"""Scans are searched in windows: one search of 32 MiB would keep other threads from running meanwhile."""

_MARKER = re.compile(rb"\xff[^\x00\xff]")
_MARKER_AFTER_SCAN = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
_SOI, _EOI, _SOS, _APP0, _APP1, _APP2, _APP14 = 0xD8, 0xD9, 0xDA, 0xE0, 0xE1, 0xE2, 0xEE
_ALONE = {0x01, _SOI, *range(0xD0, 0xD8)}
_TABLES = {0xC4, 0xCC, 0xDB, 0xDD}
_AFTER_SCAN = {0x01, _SOS, 0xDC, *_TABLES, *range(_APP0, 0xF0), 0xFE}
"""What libjpeg takes behind a scan. Where a restart is due, it drops any other marker but not the segment behind it."""
_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
_PROGRESSIVE, _ARITHMETIC_OR_LOSSLESS = {0xC2, 0xCA}, {0xC3, 0xC9, 0xCA, 0xCB}
_NUMBER_OF_PICTURES = 0xB001
_XMP_PREFIX = b"http://ns.adobe.com/xap/1.0/\x00"


class _Header(NamedTuple):
    """What stands before the first scan, which begins at `scan`; `kept` is all of it, or `leaves_out` some."""

    kept: list[bytes]
    leaves_out: bool
    frame: int
    width: int
    height: int
    components: int
    segments: int
    scan: int
    exif: bytes
    xmp: bytes
    pictures: int


def read_jpeg(data: bytes) -> Structure:
    """Read the structure of a JPEG.

    Raises:
        InvalidImage: it is damaged, or has more segments or scans than are read.
    """
    header = _read_header(data)
    pixels = header.width * header.height
    (components,) = data[header.scan + 4 : header.scan + 5] or (0,)
    has_one_scan = header.frame not in _PROGRESSIVE and components == header.components
    scans = 1 if has_one_scan else _count_scans(data, header.scan, header.segments)
    byte_ns = 150 if header.frame in _ARITHMETIC_OR_LOSSLESS else 30
    return Structure(
        format="JPEG",
        width=header.width,
        height=header.height,
        pictures=header.pictures,
        orientation=orientation(header.exif, header.xmp),
        parts=[b"\xff\xd8", *header.kept, memoryview(data)[header.scan :]] if header.leaves_out else [data],
        seconds=1e-9 * (byte_ns * len(data) + pixels * (15 if has_one_scan else 30 + scans)),
        plain=header.components in (1, 3),
    )


def _read_header(data: bytes) -> _Header:
    """Read the segments before the first scan."""
    kept, frame, size, components = list[bytes](), 0, (0, 0), 0
    exif, xmp, pictures, ultra_hdr = b"", b"", 1, False
    place, length, leaves_out = 2, len(data), False
    for segments in range(MOST_SEGMENTS):
        start = place
        if not (place + 1 < length and data[place] == 0xFF and 0 < data[place + 1] < 0xFF):
            match = _MARKER.search(data, place, place + _MOST_JUNK_BYTES)
            if match is None:
                raise damaged("there is no marker where one is due")
            start, leaves_out = match.start(), True
        marker, place = data[start + 1], start + 2
        if marker in _ALONE:
            leaves_out = True
            continue
        content_start, end = place + 2, place + int.from_bytes(data[place : place + 2], "big")
        if marker == _EOI or end < content_start or end > length:
            raise damaged("a segment is cut short")
        place = end
        if marker in _TABLES:
            kept.append(data[start:end])
            continue
        content = data[content_start:end]
        if marker == _SOS:
            if not frame:
                raise damaged("a scan comes before the size of the picture")
            several = 1 if ultra_hdr else pictures
            return _Header(kept, leaves_out, frame, *size, components, segments, start, exif, xmp, several)
        if marker in _FRAMES:
            if len(content) < 6:
                raise damaged("the size of the picture is cut short")
            size = int.from_bytes(content[3:5], "big"), int.from_bytes(content[1:3], "big")
            frame, components = marker, content[5]
            kept.append(data[start:end])
            continue
        if _is_colour(marker, content):
            kept.append(data[start:end])
            continue
        leaves_out = True
        if marker == _APP1 and content.startswith(b"Exif\x00\x00"):
            exif = exif or content  # EXIF of several segments keeps the orientation in the first
        elif marker == _APP1 and content.startswith(_XMP_PREFIX):
            xmp = content
        elif marker == _APP2 and content.startswith(b"MPF\x00"):
            pictures = _number_of_pictures(content[4:])
        ultra_hdr = ultra_hdr or (marker == _APP1 and b' hdrgm:Version="' in content)
    raise too_many("JPEG", "segments", MOST_SEGMENTS)


def _is_colour(marker: int, content: bytes) -> bool:
    """Return whether a segment says how the components are coloured, which is all that decoders take from it."""
    return (marker == _APP0 and content.startswith(b"JFIF")) or (marker == _APP14 and content.startswith(b"Adobe"))


def _number_of_pictures(index: bytes) -> int:
    """Return how many pictures a multi-picture index names; 1 where it cannot be read."""
    try:
        reader = TiffReader(index)
        return reader.value(reader.directory(reader.first), _NUMBER_OF_PICTURES, 1)
    except InvalidImage:
        return 1


def _count_scans(data: bytes, place: int, segments: int) -> int:
    """Count the scans from the first one on.

    Raises:
        InvalidImage: there are more scans or segments than are read, or a marker that libjpeg does not take there.
    """
    scans = 0
    while place < len(data):
        match = _MARKER_AFTER_SCAN.search(data, place, place + _WINDOW_BYTES)
        if match is None:
            place += _WINDOW_BYTES - 1  # a marker may lie across the edge of the window
            continue
        marker, place = data[match.end() - 1], match.end()
        if marker == _EOI:
            break
        if marker not in _AFTER_SCAN:
            raise damaged(f"the marker {marker:#04x} comes after a scan")
        segments += 1
        scans += marker == _SOS
        if scans > MOST_SCANS:
            raise too_many("JPEG", "scans", MOST_SCANS)
        if segments > MOST_SEGMENTS:
            raise too_many("JPEG", "segments", MOST_SEGMENTS)
        if marker not in _ALONE:
            place += int.from_bytes(data[place : place + 2], "big")
    return scans
