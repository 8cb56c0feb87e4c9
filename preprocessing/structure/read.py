"""The structure of any accepted file, told apart by its first bytes."""

from collections.abc import Callable

from preprocessing.structure.base import Structure
from preprocessing.structure.bmp import read_bmp
from preprocessing.structure.gif import read_gif
from preprocessing.structure.jpeg import read_jpeg
from preprocessing.structure.png import MAGIC, read_png
from preprocessing.structure.tiff import read_tiff
from preprocessing.structure.webp import read_webp

_READERS: tuple[tuple[bytes, Callable[[bytes], Structure]], ...] = (
    (b"\xff\xd8\xff", read_jpeg),
    (MAGIC, read_png),
    (b"BM", read_bmp),
    (b"GIF87a", read_gif),
    (b"GIF89a", read_gif),
    (b"II\x2a\x00", read_tiff),
    (b"MM\x00\x2a", read_tiff),
    (b"II\x00\x2a", read_tiff),
    (b"MM\x2a\x00", read_tiff),
    (b"II\x2b\x00", read_tiff),
)


def read_structure(data: bytes) -> Structure | None:
    """Read what a file is made of, in time that does not depend on what it claims.

    Returns:
        None where the first bytes are of no accepted format.

    Raises:
        InvalidImage: the file is damaged, or has more parts than any program writes.
        TooLarge: its parts are much larger than its picture.
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return read_webp(data)
    return next((read(data) for magic, read in _READERS if data.startswith(magic)), None)
