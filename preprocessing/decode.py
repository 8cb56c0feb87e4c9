"""bytes → image: check first, decode second. OpenCV decodes what it decodes well, Pillow the rest."""

import io
import warnings

import cv2
import numpy as np
from PIL import Image, ImageFile, ImageOps, UnidentifiedImageError

from errors import InvalidImage, TooLarge
from preprocessing.spec import ImageLimits, UInt8Image

FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WEBP", "GIF")
"""What is accepted; each is read by Pillow's header parser and nothing else is tried."""

_ORIENTATION = 0x0112  # the EXIF tag
_END_OF_JPEG = b"\xff\xd9"
_ACCEPTED = "Send a JPEG, PNG, BMP, TIFF, WebP or still GIF."
_KNOWN_OTHERS = ((b"%PDF", "a PDF"), (b"PK\x03\x04", "a ZIP archive"), (b"\x1f\x8b", "gzip-compressed"))


def decode(data: bytes, limits: ImageLimits) -> UInt8Image:
    """Decode one encoded picture; its header is checked before any pixel is decoded or memory taken for it.

    Grey and palette pictures become RGB, 16-bit ones 8-bit (rounded value / 257), CMYK goes through Pillow's
    conversion, transparency is dropped (the colour beneath it stays), EXIF orientation is applied.

    Args:
        data: the encoded bytes, whatever their file name or content type said.
        limits: bytes, pixels and sides that are allowed.

    Returns:
        RGB, shape (H, W, 3), uint8, contiguous.

    Raises:
        InvalidImage: not a picture, damaged, truncated, animated, or a side outside the limits.
        TooLarge: more bytes or more pixels than the limits allow.
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
        warnings.simplefilter("ignore")  # Pillow's remarks on odd files; what is too large is refused below
        try:
            with Image.open(io.BytesIO(data), formats=FORMATS) as opened:
                _check(opened, limits)
                return _opencv(data) if _suits_opencv(opened, data) else _pillow(opened)
        except (InvalidImage, TooLarge):
            raise
        except Image.DecompressionBombError as error:
            raise TooLarge(f"The picture has too many pixels; at most {limits.max_pixels:,} are allowed.") from error
        except UnidentifiedImageError as error:
            raise InvalidImage(f"The file is not an image that can be read{_what_it_is(data)}. {_ACCEPTED}") from error
        except Exception as error:  # decoders raise whatever they like on hostile bytes
            raise InvalidImage(
                f"The image is damaged or cut short ({_first_words(error)}). Send the file again."
            ) from error


def check_size(width: int, height: int, limits: ImageLimits) -> None:
    """Raise TooLarge or InvalidImage, as `decode` does, where a picture of this size is not allowed."""
    if width * height > limits.max_pixels:
        raise TooLarge(
            f"The picture is {width:,} x {height:,} pixels, {width * height:,} in all; at most {limits.max_pixels:,} "
            "are allowed. Send a smaller one."
        )
    if min(width, height) < limits.min_side:
        raise InvalidImage(f"The picture is {width} x {height} pixels; each side needs at least {limits.min_side}.")
    if limits.max_side is not None and max(width, height) > limits.max_side:
        raise InvalidImage(f"The picture is {width} x {height} pixels; each side may have at most {limits.max_side}.")


def _check(opened: ImageFile.ImageFile, limits: ImageLimits) -> None:
    check_size(*opened.size, limits)
    frames = int(getattr(opened, "n_frames", 1))
    if frames > 1:
        raise InvalidImage(f"The file holds {frames} pictures (animated or multi-page). Send the one that is meant.")


def _suits_opencv(opened: ImageFile.ImageFile, data: bytes) -> bool:
    """Whole, upright, grey or RGB JPEGs: the ordinary case, and there OpenCV's pixels are Pillow's.

    Everything else goes to Pillow, which refuses a truncated stream or a wrong PNG checksum where OpenCV fills in.
    """
    if opened.format != "JPEG" or opened.mode not in ("L", "RGB") or opened.getexif().get(_ORIENTATION, 1) != 1:
        return False
    return data.rstrip(b"\x00\r\n").endswith(_END_OF_JPEG)


def _opencv(data: bytes) -> UInt8Image:
    flags = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    if image is None:
        raise ValueError("the decoder gave up")
    return np.asarray(image, np.uint8)


def _pillow(opened: ImageFile.ImageFile) -> UInt8Image:
    opened.load()  # raises on what is truncated
    image = ImageOps.exif_transpose(opened)
    if image.mode.startswith("I;16") or image.mode == "I":
        deep = np.asarray(image).astype(np.int64)
        if deep.min() < 0 or deep.max() > 65_535:
            raise InvalidImage("The picture has values outside 16 bits. Window it to 8 or 16 bits and send that.")
        grey = ((deep + 128) // 257).astype(np.uint8)
        return np.ascontiguousarray(np.repeat(grey[..., None], 3, axis=2))
    if image.mode == "F":
        raise InvalidImage("The picture has floating-point pixels. Window it to 8 or 16 bits and send that.")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La"):
        image = image.convert("RGBA")
    return np.ascontiguousarray(np.asarray(image.convert("RGB"), np.uint8))


def _is_dicom(data: bytes) -> bool:
    return data[128:132] == b"DICM"


def _what_it_is(data: bytes) -> str:
    for magic, name in _KNOWN_OTHERS:
        if data.startswith(magic):
            return f" (it looks like {name})"
    if data[4:8] == b"ftyp":
        return " (it looks like HEIC, AVIF or a video)"
    sample = data[:512]
    return " (it looks like text)" if all(byte in b"\t\r\n\f" or 32 <= byte < 127 for byte in sample) else ""


def _first_words(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120] or type(error).__name__
