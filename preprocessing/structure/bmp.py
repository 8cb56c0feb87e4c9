"""BMP: one header. Run-length coded ones are decoded byte by byte in Python."""

import struct

from preprocessing.structure.base import Structure, damaged
from preprocessing.structure.orientation import UPRIGHT

_OLDEST_HEADER_BYTES, _HEADER_BYTES = 12, (40, 52, 56, 64, 108, 124)
_RUN_LENGTHS = (1, 2)


def read_bmp(data: bytes) -> Structure:
    """Read the structure of a BMP.

    Raises:
        InvalidImage: it is damaged, or of a kind that is not read.
    """
    header_bytes = int.from_bytes(data[14:18], "little")
    if header_bytes > len(data) - 14:
        raise damaged("its header is cut short")
    compression = 0
    if header_bytes == _OLDEST_HEADER_BYTES:
        width, height = struct.unpack_from("<HH", data, 18)
    elif header_bytes in _HEADER_BYTES:
        width, height, _, _, compression = struct.unpack_from("<IIHHI", data, 18)
        height = 2**32 - height if data[25] == 0xFF else height  # the rows run down from the top
    else:
        raise damaged(f"its header has {header_bytes:,} bytes")
    # The end of a row may come before its pixels, and is filled up pixel by pixel.
    byte_ns, pixel_ns = (500, 100) if compression in _RUN_LENGTHS else (5, 5)
    return Structure(
        format="BMP",
        width=width,
        height=height,
        pictures=1,
        orientation=UPRIGHT,
        parts=[data],
        seconds=1e-9 * (byte_ns * len(data) + pixel_ns * width * height),
    )
