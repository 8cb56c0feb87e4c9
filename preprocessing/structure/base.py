"""What all formats tell of a picture before it is decoded, and how what is wrong with a file is said."""

from collections.abc import Sequence
from typing import NamedTuple, cast

from errors import InvalidImage


class Structure(NamedTuple):
    """What a file says of its picture.

    Attributes:
        format: the file's format, by Pillow's name.
        width: in pixels, as stored: the orientation is not applied.
        height: in pixels, as stored.
        pictures: how many pictures the file holds; counting ends at `MOST_PICTURES`.
        orientation: how the stored picture is to be turned, 1 (upright) to 8, as EXIF numbers it.
        parts: of the file, in order, without whatever its pixels do not depend on.
        seconds: how long one core takes to decode it at the worst, generously estimated from sizes alone.
        plain: whether it is a grey or RGB JPEG, or a still WebP, of which OpenCV makes the pixels that Pillow does.
    """

    format: str
    width: int
    height: int
    pictures: int
    orientation: int
    parts: Sequence[bytes | memoryview]
    seconds: float
    plain: bool = False

    @property
    def essential(self) -> bytes:
        """The parts as one file, which decoders get."""
        whole = len(self.parts) == 1 and isinstance(self.parts[0], bytes)
        return cast(bytes, self.parts[0]) if whole else b"".join(self.parts)


MOST_PICTURES = 100
"""Pictures in one file are counted up to here; more than one are refused anyway."""


def damaged(reason: str) -> InvalidImage:
    """Return the error for a file that is not what its format prescribes."""
    return InvalidImage(f"The image is damaged or cut short ({reason}). Send the file again.")


def too_many(kind: str, what: str, limit: int) -> InvalidImage:
    """Return the error for a file that has more of its parts than any program writes.

    Args:
        kind: the format.
        what: the parts, in the plural.
        limit: how many are allowed.
    """
    return InvalidImage(
        f"The {kind} file has more than {limit:,} {what}, the most that is read. "
        "Save the picture again, as a plain PNG or JPEG, and send that."
    )
