"""GIF: blocks and frames. What is no picture comes in blocks of 1 to 255 bytes, as many as a file likes."""

import struct

from preprocessing.structure.base import MOST_PICTURES, Structure, damaged, too_many
from preprocessing.structure.orientation import UPRIGHT

_BLOCKS, _BYTES_A_BLOCK = 1_000, 64
"""A file may have so many blocks, and one more for so many bytes: encoders fill their blocks, which take 255 bytes."""

_IMAGE, _EXTENSION, _TRAILER, _GRAPHIC_CONTROL = 0x2C, 0x21, 0x3B, 0xF9


class _Blocks:
    """Walks the blocks of a file and counts them."""

    def __init__(self, data: bytes) -> None:
        self._data, self._most = data, _BLOCKS + len(data) // _BYTES_A_BLOCK
        self._left = self._most

    def end(self, place: int) -> int:
        """Return where the chain of blocks that begins at a place ends, at most at the end of the file."""
        data = self._data
        for blocks in range(self._left):
            if place >= len(data):
                self._left -= blocks
                return len(data)
            size = data[place]
            place += size + 1
            if not size:
                self._left -= blocks + 1
                return place
        raise too_many("GIF", "blocks", self._most)

    def skip(self, place: int) -> int:
        """Count one byte that begins no block, and return the next place."""
        if self._left <= 0:
            raise too_many("GIF", "blocks", self._most)
        self._left -= 1
        return place + 1


def read_gif(data: bytes) -> Structure:
    """Read the structure of a GIF.

    Raises:
        InvalidImage: it is damaged, or has more blocks than are read.
    """
    if len(data) < 13:
        raise damaged("its header is cut short")
    width, height, flags = struct.unpack_from("<HHB", data, 6)
    place = 13 + _colours(flags)
    kept, pictures, blocks, control = list[bytes | memoryview]([data[:place]]), 0, _Blocks(data), b""
    while place < len(data) and data[place] != _TRAILER and pictures < MOST_PICTURES:
        if data[place] == _EXTENSION:
            end = blocks.end(place + 2)
            if data[place + 1 : place + 2] == bytes([_GRAPHIC_CONTROL]) and place + 3 < end:
                control = data[place : place + 3 + data[place + 2]] + b"\x00"
        elif data[place] == _IMAGE:
            if place + 10 > len(data):
                raise damaged("a picture's header is cut short")
            left, top, across, down, flags = struct.unpack_from("<HHHHB", data, place + 1)
            end = blocks.end(place + 11 + _colours(flags))
            if not pictures:
                kept += [control, memoryview(data)[place:end], bytes([_TRAILER])]
                width, height = max(width, left + across), max(height, top + down)
            pictures += 1
        else:  # decoders look for the next block behind bytes that begin none
            end = blocks.skip(place)
        place = end
    if not pictures:
        raise damaged("there is no picture in it")
    return Structure(
        format="GIF",
        width=width,
        height=height,
        pictures=pictures,
        orientation=UPRIGHT,
        parts=kept,
        seconds=1e-9 * (20 * len(data) + 15 * width * height),
    )


def _colours(flags: int) -> int:
    """Return the size of a colour table in bytes."""
    return 3 << ((flags & 7) + 1) if flags & 0x80 else 0
