"""Where a picture lies in the network's input: resized, then cut or padded around its middle."""

from typing import NamedTuple

from errors import InvalidImage
from preprocessing.spec import ImageInput

MOST_ELONGATED = 32
"""How many times as long as the other a side of a picture may be whose short side is resized: 8 pixels that are resized
to 256 make 32 of each of the others."""

Window = tuple[slice, slice]
"""Rows and columns of a picture."""


class Placement(NamedTuple):
    """Which part of a picture the network sees, and where it lies in the network's input.

    Attributes:
        size: height and width of the picture as it came, in pixels.
        resized: height and width that it is resized to.
        input_size: height and width of the network's input.
        taken: the part of the resized picture that the network sees.
        inside: the part of the input where that lies; what is left is padding.
    """

    size: tuple[int, int]
    resized: tuple[int, int]
    input_size: tuple[int, int]
    taken: Window
    inside: Window

    @property
    def is_whole(self) -> bool:
        """Whether the input is the whole picture and nothing else."""
        return self.resized == self.input_size

    def seen(self) -> Window:
        """Return the part of the picture as it came that the network sees, of one pixel or more."""
        rows, columns = (
            _scaled(taken, resized, side)
            for taken, resized, side in zip(self.taken, self.resized, self.size, strict=True)
        )
        return rows, columns

    def input_box(self) -> tuple[float, float, float, float]:
        """Return left, top, right and bottom of the input, in pixels of the picture as it came.

        Padding lies outside of the picture, at coordinates below 0 or beyond its size.
        """
        height, width = (side / resized for side, resized in zip(self.size, self.resized, strict=True))
        top, left = (taken.start - inside.start for taken, inside in zip(self.taken, self.inside, strict=True))
        bottom, right = top + self.input_size[0], left + self.input_size[1]
        return left * width, top * height, right * width, bottom * height


def place(size: tuple[int, int], spec: ImageInput) -> Placement:
    """Return where a picture lies in the network's input.

    Args:
        size: height and width of the picture, in pixels.
        spec: the card's input section.

    Raises:
        InvalidImage: the picture's short side is to be resized, and the other is more than `MOST_ELONGATED` times as
            long.
    """
    resized = _resized_size(size, spec)
    (taken_rows, rows), (taken_columns, columns) = (
        _centred(length, available) for length, available in zip(resized, spec.size, strict=True)
    )
    return Placement(size, resized, spec.size, (taken_rows, taken_columns), (rows, columns))


def _resized_size(size: tuple[int, int], spec: ImageInput) -> tuple[int, int]:
    """Return height and width that a picture is resized to, rounded as torchvision and timm round."""
    if spec.resize == "none":
        return size
    box = spec.box
    if spec.resize == "stretch":
        return box
    ratios = [side / limit for side, limit in zip(size, box, strict=True)]
    if spec.resize == "letterbox":
        return _divided(size, max(ratios))
    if max(ratios) > MOST_ELONGATED * min(ratios):
        raise InvalidImage(
            f"The picture is {size[1]:,} x {size[0]:,} pixels; beside the shape that is cut out of its middle, one "
            f"side may be at most {MOST_ELONGATED} times as long as the other."
        )
    if box[0] != box[1]:
        return _divided(size, min(ratios))  # as timm does
    short, long = box[0], int(box[0] * max(size) / min(size))  # as torchvision does, and timm for a square box
    return (long, short) if size[0] > size[1] else (short, long)


def _divided(size: tuple[int, int], ratio: float) -> tuple[int, int]:
    return max(1, round(size[0] / ratio)), max(1, round(size[1] / ratio))


def _centred(length: int, available: int) -> tuple[slice, slice]:
    """Return which part of a length is taken, and where it lies in what is available; both around the middle."""
    if length >= available:
        start = round((length - available) / 2)
        return slice(start, start + available), slice(0, available)
    start = (available - length) // 2
    return slice(0, length), slice(start, start + length)


def _scaled(part: slice, length: int, new_length: int) -> slice:
    """Return the part of a length as that of another length, of one pixel or more."""
    start = min(round(part.start * new_length / length), new_length - 1)
    return slice(start, max(start + 1, min(round(part.stop * new_length / length), new_length)))
