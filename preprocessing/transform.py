"""image → tensor: resize, measure sharpness, equalise, normalise. Training and serving both call `transform`."""

from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from preprocessing.spec import Clahe, Float32Tensor, ImageInput, UInt8Image

_OPENCV = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos4": cv2.INTER_LANCZOS4,
}


class Transformed(NamedTuple):
    """One item, ready to be batched.

    tensor: shape (3, h, w), float32, contiguous, normalised, with (h, w) = `spec.size`.
    sharpness: variance of the Laplacian of the resized grey picture (0-255 scale), None unless the card asks.
    """

    tensor: Float32Tensor
    sharpness: float | None


def transform(image: UInt8Image, spec: ImageInput) -> Transformed:
    """Resize, equalise and normalise one picture as the card says.

    Args:
        image: RGB, shape (H, W, 3), uint8, any size.
        spec: the card's input section.

    Source: CLAHE after Zuiderveld 1994, on the lightness of CIELAB, after the resize; sharpness after
    Pech-Pacheco et al. 2000 (variance of the Laplacian), before the equalisation that would inflate it.
    """
    resized = resize(image, spec)
    measured = None if spec.blur_below is None else sharpness(resized)
    if spec.clahe is not None:
        resized = equalise(resized, spec.clahe)
    return Transformed(normalise(resized, spec), measured)


def resize(image: UInt8Image, spec: ImageInput) -> UInt8Image:
    """Resize to `spec.size` by the card's own library and kernel; the picture itself where it already fits."""
    height, width = spec.size
    if image.shape[:2] == (height, width):
        return image
    if spec.library == "opencv":
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV[spec.kernel]), np.uint8)
    kernel = Image.Resampling[spec.kernel.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), kernel), np.uint8)


def sharpness(image: UInt8Image) -> float:
    """Variance of the Laplacian of the grey picture, on the 0-255 scale; 0 for a flat one."""
    laplacian = cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_16S)
    return float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2)


def equalise(image: UInt8Image, clahe: Clahe) -> UInt8Image:
    """CLAHE on the lightness of CIELAB; hue and saturation stay. Shape (H, W, 3) uint8 in and out."""
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    equaliser = cv2.createCLAHE(clipLimit=clahe.clip_limit, tileGridSize=clahe.tiles)
    lab[..., 0] = equaliser.apply(np.ascontiguousarray(lab[..., 0]))
    return np.asarray(cv2.cvtColor(lab, cv2.COLOR_LAB2RGB), np.uint8)


def normalise(image: UInt8Image, spec: ImageInput) -> Float32Tensor:
    """(pixel / 255 - mean) / std by channel. Shape (h, w, 3) uint8 in, (3, h, w) float32 out."""
    tensor = np.empty((3, *image.shape[:2]), np.float32)
    for plane, table, out in zip(cv2.split(image), _tables(spec.mean, spec.std), tensor, strict=True):
        cv2.LUT(plane, table, out)  # a twentieth of the time of the arithmetic, and the same values
    return tensor


@cache
def _tables(mean: tuple[float, ...], std: tuple[float, ...]) -> tuple[Float32Tensor, ...]:
    """For each channel what each of the 256 pixel values becomes, shape (1, 256)."""
    scale = 1.0 / (255.0 * np.asarray(std, np.float64))
    offset = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    values = np.arange(256, dtype=np.float32)
    return tuple(
        (values * one + other).reshape(1, 256)
        for one, other in zip(scale.astype(np.float32), offset.astype(np.float32), strict=True)
    )
