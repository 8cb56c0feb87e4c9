"""Decode a picture's bytes, after checks of its header. OpenCV decodes ordinary JPEGs, Pillow everything else."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from errors import InvalidImage, TooLarge
from preprocessing.spec import ImageLimits, UInt8Image

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""The accepted formats, by Pillow's names. Pillow tries the header parsers of these and of no other format."""

_EXIF_ORIENTATION = 0x0112
_END_OF_JPEG = b"\xff\xd9"
_ACCEPTED = "Send a JPEG, PNG, BMP, TIFF, WebP or still GIF."
_UNSUPPORTED = ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "gzip-compressed"))


def decode(data: bytes, limits: ImageLimits) -> UInt8Image:
    """Decode one encoded picture. Its header is checked before any pixel is decoded or memory allocated for it.

    Grey and palette pictures become RGB, 16-bit ones 8-bit (rounded value / 257), CMYK goes through Pillow's
    conversion, transparency is dropped (the colour beneath it stays), EXIF orientation is applied.

    Args:
        data: the encoded bytes; a file name or content type plays no role.
        limits: how many bytes and pixels are allowed, and how long a side may be.

    Returns:
        RGB, shape (H, W, 3), uint8, contiguous.

    Raises:
        InvalidImage: the bytes are no picture, or it is damaged, truncated, animated, or has a side outside the limits.
        TooLarge: there are more bytes or more pixels than the limits allow.
    """
    if not data:
        raise InvalidImage("The image is empty (0 bytes). Send the encoded file itself.")
    if len(data) > limits.max_bytes:
        raise TooLarge(
            f"The image has {len(data):,} bytes; at most {limits.max_bytes:,} are allowed. Send a smaller file."
        )
    if _is_dicom(data):
        raise InvalidImage("This is a DICOM file. Export the windowed slice as a PNG or JPEG and send that.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of odd files; those that are too large are refused below
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
                _check_header(picture, limits)
                return _decode_with_opencv(data) if _suits_opencv(picture, data) else _decode_with_pillow(picture)
        except (InvalidImage, TooLarge):
            raise
        except Image.DecompressionBombError as error:
            raise TooLarge(f"The picture has too many pixels; at most {limits.max_pixels:,} are allowed.") from error
        except UnidentifiedImageError as error:
            raise InvalidImage(
                f"The file is not an image that can be read{_likely_format(data)}. {_ACCEPTED}"
            ) from error
        except Exception as error:  # decoders raise whatever they like on hostile bytes
            raise InvalidImage(
                f"The image is damaged or cut short ({_first_line(error)}). Send the file again."
            ) from error


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


def _check_header(picture: ImageFile.ImageFile, limits: ImageLimits) -> None:
    check_size(*picture.size, limits)
    frames = int(getattr(picture, "n_frames", 1))
    if frames > 1:
        raise InvalidImage(f"The file holds {frames} pictures (animated or multi-page). Send the one that is meant.")


def _suits_opencv(picture: ImageFile.ImageFile, data: bytes) -> bool:
    """Return whether a file is a complete, upright, grey or RGB JPEG, of which OpenCV and Pillow make the same pixels.

    Everything else goes to Pillow. It refuses a truncated stream or a wrong PNG checksum, where OpenCV would invent
    pixels.
    """
    if picture.format != "JPEG" or picture.mode not in ("L", "RGB"):
        return False
    upright = picture.getexif().get(_EXIF_ORIENTATION, 1) == 1
    return upright and data.rstrip(b"\x00\r\n").endswith(_END_OF_JPEG)


def _decode_with_opencv(data: bytes) -> UInt8Image:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("the decoder gave up")
    return np.asarray(image, np.uint8)


def _decode_with_pillow(picture: ImageFile.ImageFile) -> UInt8Image:
    picture.load()  # raises if the file is truncated
    image = ImageOps.exif_transpose(picture)
    if image.mode.startswith("I;16") or image.mode == "I":
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65_535:
            raise InvalidImage("The picture has values outside 16 bits. Window it to 8 or 16 bits and send that.")
        grey = ((values + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if image.mode == "F":
        raise InvalidImage("The picture has floating-point pixels. Window it to 8 or 16 bits and send that.")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8))


def _is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


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
