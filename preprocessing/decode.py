"""Decode a picture's bytes, after checks of its structure. OpenCV decodes most JPEGs and WebPs, Pillow all else."""

import io
import threading
import warnings
from collections.abc import Iterator

import cv2
import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from errors import InvalidImage, TooLarge
from preprocessing.spec import ImageLimits, UInt8Image
from preprocessing.structure.base import Structure, damaged
from preprocessing.structure.orientation import UPRIGHT
from preprocessing.structure.read import read_structure

_BAND_PIXELS = 2**20
"""Pixels are converted by bands of so many, so that no conversion needs memory for the whole picture once more."""
_END_OF_JPEG = b"\xff\xd9"
_ACCEPTED = "Send a JPEG, PNG, BMP, TIFF, WebP or still GIF."
_UNSUPPORTED = ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "gzip-compressed"))


def decode(data: bytes, limits: ImageLimits, *, upright: bool = True) -> UInt8Image:
    """Decode one encoded picture. Its structure is checked before any pixel is decoded or memory allocated for it.

    Grey and palette pictures become RGB, 16-bit ones 8-bit (rounded value / 257), CMYK goes through Pillow's
    conversion, transparency is dropped (the colour beneath it stays), the orientation of EXIF or XMP is applied.
    Colour profiles, text and all other metadata are never read.

    Args:
        data: the encoded bytes; a file name or content type plays no role.
        limits: how many bytes and pixels are allowed, and how long a side may be.
        upright: whether the orientation is applied; the picture is as it is stored otherwise.

    Returns:
        RGB, shape (H, W, 3), uint8, contiguous.

    Raises:
        InvalidImage: the bytes are no picture, or it is damaged, truncated, animated, in more parts than any program
            writes, or has a side outside the limits.
        TooLarge: there are more bytes or more pixels than the limits allow.
        MemoryError: there is too little memory, which says nothing of the picture.
    """
    structure = _known.take(data, limits) or check_structure(data, limits)
    try:
        if structure.plain and (structure.format == "WEBP" or _is_complete_and_upright(structure, data)):
            image = _decode_with_opencv(structure)
        else:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # Pillow warns of odd files; those that are too large are refused above
                image = _decode_with_pillow(structure)
        return _turn(image, structure.orientation) if upright else image
    except (InvalidImage, TooLarge):
        raise
    except Image.DecompressionBombError as error:
        raise TooLarge(f"The picture has too many pixels; at most {limits.max_pixels:,} are allowed.") from error
    except UnidentifiedImageError as error:
        raise InvalidImage(f"The file is not an image that can be read{_likely_format(data)}. {_ACCEPTED}") from error
    except Exception as error:  # decoders raise whatever they like on hostile bytes
        if lacks_memory(error):
            raise MemoryError from error
        raise damaged(_first_line(error)) from error


class _Known(threading.local):
    """The structure that a thread has checked last, for `decode`, which mostly comes next."""

    _last: tuple[bytes, ImageLimits, Structure] | None = None

    def keep(self, data: bytes, limits: ImageLimits, structure: Structure) -> None:
        self._last = data, limits, structure

    def take(self, data: bytes, limits: ImageLimits) -> Structure | None:
        """Return the structure of these very bytes, once; None where others were checked, and forget those."""
        last, self._last = self._last, None
        return last[2] if last is not None and last[0] is data and last[1] is limits else None


_known = _Known()


def decodes_within(data: bytes, limits: ImageLimits, seconds: float, pixel_s: float = 0.0) -> bool:
    """Return whether one core decodes a picture in so many seconds, even at the worst; its structure is checked.

    Where it does, and the same thread decodes it next, its structure is not read again.

    Args:
        data: the encoded bytes.
        limits: as of `decode`.
        seconds: the time that there is.
        pixel_s: what each pixel takes beside its decoding, in seconds.

    Raises:
        InvalidImage: as `check_structure`.
        TooLarge: as `check_structure`.
    """
    structure = check_structure(data, limits)
    if structure.seconds + pixel_s * structure.width * structure.height > seconds:
        return False
    _known.keep(data, limits, structure)
    return True


def lacks_memory(error: Exception) -> bool:
    """Return whether an error says that there is too little memory; OpenCV has one of its own."""
    return isinstance(error, MemoryError) or (isinstance(error, cv2.error) and error.code == cv2.Error.StsNoMem)


def check_structure(data: bytes, limits: ImageLimits) -> Structure:
    """Check what a file is made of, without decoding any of it; the time that this takes has a bound.

    Raises:
        InvalidImage: as `decode`, for whatever can be told without decoding.
        TooLarge: as `decode`.
    """
    if not data:
        raise InvalidImage("The image is empty (0 bytes). Send the encoded file itself.")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed. Send a smaller file."
        )
    if data[128:132] == b"DICM":
        raise InvalidImage("This is a DICOM file. Export the windowed slice as a PNG or JPEG and send that.")
    structure = read_structure(data)
    if structure is None:
        raise InvalidImage(f"The file is not an image that can be read{_likely_format(data)}. {_ACCEPTED}")
    check_size(structure.width, structure.height, limits)
    if structure.pictures > 1:
        raise InvalidImage(
            f"The file holds {structure.pictures:,} pictures (animated or multi-page). Send the one that is meant."
        )
    return structure


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Check a picture's size in pixels.

    Raises:
        InvalidImage: a side is outside the limits.
        TooLarge: there are more pixels than the limits allow.
    """
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"The picture is {width:,} x {height:,} pixels, {width * height:,} in all; at most {limits.max_pixels:,} "
            "are allowed. Send a smaller one."
        )
    if min(width, height) < limits.min_side:
        raise InvalidImage(f"The picture is {width} x {height} pixels; each side needs at least {limits.min_side}.")
    if limits.max_side is not None and max(width, height) > limits.max_side:
        raise InvalidImage(f"The picture is {width} x {height} pixels; each side may have at most {limits.max_side}.")


def _check_same_size(width: int, height: int, structure: Structure) -> None:
    """Raise InvalidImage where a decoder has another size than the one that was checked."""
    if (width, height) != (structure.width, structure.height):
        raise damaged(f"it says {structure.width} x {structure.height} pixels, and its decoder {width} x {height}")


def _is_complete_and_upright(jpeg: Structure, data: bytes) -> bool:
    """Return whether OpenCV may decode a JPEG; it would invent the pixels that a cut one lacks."""
    return jpeg.orientation == 1 and (data.endswith(_END_OF_JPEG) or data.rstrip(b"\x00\r\n").endswith(_END_OF_JPEG))


def _decode_with_opencv(structure: Structure) -> UInt8Image:
    """Decode a complete, upright, grey or RGB JPEG, or a still WebP, of which Pillow would make several copies."""
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(structure.essential, np.uint8), flags)
    if image is None:
        raise ValueError("the decoder gave up")
    _check_same_size(image.shape[1], image.shape[0], structure)
    return np.asarray(image, np.uint8)


def _decode_with_pillow(structure: Structure) -> UInt8Image:
    """Decode any picture as it is stored; a truncated stream or a wrong sum of the pixels is an error."""
    with Image.open(io.BytesIO(structure.essential), formats=(structure.format,)) as picture:
        _check_same_size(*picture.size, structure)
        picture.load()  # raises if the file is truncated
        if picture.mode.startswith("I;16") or picture.mode == "I":
            return _from_sixteen_bits(picture)
        if picture.mode == "F":
            raise InvalidImage("The picture has floating-point pixels. Window it to 8 or 16 bits and send that.")
        image = np.empty((picture.height, picture.width, 3), np.uint8)
        for rows, band in _bands(picture):
            if band.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
                band = band.convert("RGBA")
            image[rows] = np.asarray(band.convert("RGB"), np.uint8)
        return image


def _from_sixteen_bits(picture: ImageFile.ImageFile) -> UInt8Image:
    grey = np.empty((picture.height, picture.width), np.uint8)
    for rows, band in _bands(picture):
        values = np.asarray(band).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise InvalidImage("The picture has values outside 16 bits. Window it to 8 or 16 bits and send that.")
        grey[rows] = (values + 128) // 257
    return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))


def _bands(picture: Image.Image) -> Iterator[tuple[slice, Image.Image]]:
    """Yield a picture by bands of at most `_BAND_PIXELS`, each with the rows that it covers."""
    height = max(1, _BAND_PIXELS // picture.width)
    if height >= picture.height:
        yield slice(None), picture
        return
    for top in range(0, picture.height, height):
        bottom = min(picture.height, top + height)
        yield slice(top, bottom), picture.crop((0, top, picture.width, bottom))


def _turn(image: UInt8Image, orientation: int) -> UInt8Image:
    """Turn a stored picture upright; orientations are those of EXIF, 1 to 8."""
    if orientation == UPRIGHT:
        return np.ascontiguousarray(image)
    if orientation >= 5:
        image = image.transpose(1, 0, 2)  # 5 to 8 are 1, 4, 3 and 2 of the picture whose rows are its columns
        orientation = {5: 1, 6: 2, 7: 3, 8: 4}[orientation]
    across = slice(None, None, -1 if orientation in (2, 3) else 1)
    down = slice(None, None, -1 if orientation in (3, 4) else 1)
    return np.ascontiguousarray(image[down, across])


def _likely_format(data: bytes) -> str:
    """Return what the bytes look like, as a remark in parentheses; empty if they look like nothing known."""
    for magic, name in _UNSUPPORTED:
        if data.startswith(magic):
            return f" (it looks like {name})"
    if data[4:8] == b"ftyp":
        return " (it looks like HEIC, AVIF or a video)"
    sample = data[:512]
    return " (it looks like text)" if all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in sample) else ""


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
