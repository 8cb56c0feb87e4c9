"""How a picture is to be turned: the one thing that is read from EXIF and XMP, as Pillow finds it there."""

import re

from errors import InvalidImage
from preprocessing.structure.directory import TiffReader

UPRIGHT = 1
MOST_XMP_BYTES = 2**20
"""The orientation is looked for in the first MiB of XMP; programs write it in the first kilobytes."""
_ORIENTATION, _MISSING = 0x0112, -1
_XMP = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')


def exif_orientation(exif: bytes) -> int | None:
    """Return the orientation in an EXIF block, with or without its `Exif` prefix; None where it says none."""
    while exif.startswith(b"Exif\x00\x00"):
        exif = exif[6:]
    try:
        reader = TiffReader(exif)
        value = reader.value(reader.directory(reader.first), _ORIENTATION, _MISSING)
    except InvalidImage:  # what is wrong with EXIF does not make the pixels wrong
        return None
    return None if value == _MISSING else value


def xmp_orientation(xmp: bytes) -> int | None:
    """Return the orientation in an XMP packet; None where it says none."""
    match = _XMP.search(xmp, 0, MOST_XMP_BYTES)
    return int(match[1]) if match else None


def orientation(exif: bytes, xmp: bytes = b"") -> int:
    """Return the orientation of a picture, 1 to 8: from EXIF where that says one, else from XMP, else upright."""
    value = exif_orientation(exif) if exif else None
    if value is None and xmp:
        value = xmp_orientation(xmp)
    return value if value is not None and 1 <= value <= 8 else UPRIGHT
