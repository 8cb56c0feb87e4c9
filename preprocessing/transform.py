"""Transform a decoded picture into a model's input. Training and serving both call `transform`."""

from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

import cv2
import numpy as np
from cv2.typing import MatLike
from PIL import Image

from preprocessing.geometry import Placement, place
from preprocessing.spec import Clahe, Float32Tensor, ImageInput, UInt8Image

_OPENCV_KERNELS = {
    "nearest": cv2.INTER_NEAREST,
    "linear": cv2.INTER_LINEAR,
    "cubic": cv2.INTER_CUBIC,
    "area": cv2.INTER_AREA,
    "lanczos4": cv2.INTER_LANCZOS4,
}

_COLOUR_SPACES = {
    "lab": (cv2.COLOR_RGB2LAB, cv2.COLOR_LAB2RGB),
    "yuv": (cv2.COLOR_RGB2YUV, cv2.COLOR_YUV2RGB),
}
"""The conversions to and from each colour space whose first channel CLAHE equalises."""


class Transformed(NamedTuple):
    """One transformed picture, ready to be batched.

    Attributes:
        tensor: shape `spec.shape`, float32, contiguous, normalised.
        sharpness: variance of the Laplacian of the grey picture (0-255 scale), resized but without what is padded
            around it, or as it came where `spec.blur_at` says so; None without `spec.blur_below`.
        area: how many pixels the picture had as it came; 0 where there was none.
    """

    tensor: Float32Tensor
    sharpness: float | None
    area: int = 0


class Fitted(NamedTuple):
    """One picture as `transform` has it before it normalises it.

    Attributes:
        pixels: RGB, shape (h, w, 3), uint8, of the size that the card says.
        sharpness, area: as of `Transformed`.
    """

    pixels: UInt8Image
    sharpness: float | None
    area: int


def transform(image: UInt8Image, spec: ImageInput) -> Transformed:
    """Resize, cut, equalise and normalise one picture as the card says; arguments and errors as of `fit`."""
    fitted = fit(image, spec)
    return Transformed(normalise(fitted.pixels, spec), fitted.sharpness, fitted.area)


def fit(image: UInt8Image, spec: ImageInput) -> Fitted:
    """Resize, cut and equalise one picture as the card says.

    Args:
        image: RGB, shape (H, W, 3), uint8, any size.
        spec: the card's input section.

    Raises:
        InvalidImage: as `preprocessing.geometry.place`.

    Source: sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000), measured before the equalisation,
    which would inflate it. The equalisation is CLAHE (Zuiderveld 1994).
    """
    height, width, _ = image.shape
    area, placement = height * width, place((height, width), spec)
    if spec.channels == "grey":
        image = _greyed(image, spec)
    fitted = _fit(image, placement, spec)
    variance = None
    if spec.blur_below is not None:
        variance = sharpness(image if spec.blur_at == "upload" else fitted[placement.inside])
    if spec.clahe is not None:
        fitted = equalise(fitted, spec.clahe)
    return Fitted(fitted, variance, area)


def resize(image: UInt8Image, spec: ImageInput) -> UInt8Image:
    """Resize a picture, and cut or pad it to `spec.size`, as the card says; one that fits is returned itself.

    Args:
        image: RGB, shape (H, W, 3), uint8, any size.
        spec: the card's input section.

    Raises:
        InvalidImage: as `preprocessing.geometry.place`.
    """
    return _fit(image, place((image.shape[0], image.shape[1]), spec), spec)


def _greyed(image: UInt8Image, spec: ImageInput) -> UInt8Image:
    """Return a picture whose three channels are all its grey one, as the card's library makes it.

    It is done before resizing, as torchvision's and timm's users do it: the other order rounds once more.
    """
    if spec.library == "opencv":
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    else:
        grey = np.asarray(Image.fromarray(image).convert("L"))
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)


def _fit(image: UInt8Image, placement: Placement, spec: ImageInput) -> UInt8Image:
    resized = _resized(image, placement.resized, spec)
    if placement.is_whole:
        return resized
    fitted = np.empty((*placement.input_size, 3), np.uint8)
    fitted[:] = spec.fill
    fitted[placement.inside] = resized[placement.taken]
    return fitted


def _resized(image: UInt8Image, size: tuple[int, int], spec: ImageInput) -> UInt8Image:
    """Resize a picture to a height and width with the card's library and kernel."""
    height, width = size
    if image.shape[:2] == size:
        return image
    if spec.library == "opencv":
        return np.asarray(cv2.resize(image, (width, height), interpolation=_OPENCV_KERNELS[spec.kernel]), np.uint8)
    kernel = Image.Resampling[spec.kernel.upper()]
    return np.asarray(Image.fromarray(image).resize((width, height), kernel), np.uint8)


def sharpness(image: UInt8Image) -> float:
    """Return the variance of the Laplacian of the grey picture, on the 0-255 scale; it is 0 for a uniform picture."""
    laplacian = cv2.Laplacian(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.CV_16S)
    return float(cv2.meanStdDev(laplacian)[1][0, 0] ** 2)


def equalise(image: UInt8Image, clahe: Clahe) -> UInt8Image:
    """Apply CLAHE to the lightness alone, and so keep the colours; RGB, shape (H, W, 3), uint8, in and out."""
    there, back = _COLOUR_SPACES[clahe.colour_space]
    image = np.asarray(cv2.cvtColor(image, there), np.uint8)
    equaliser = cv2.createCLAHE(clipLimit=clahe.clip_limit, tileGridSize=clahe.tiles)
    image[..., 0] = equaliser.apply(np.ascontiguousarray(image[..., 0]))
    return np.asarray(cv2.cvtColor(image, back), np.uint8)


def normalise(image: UInt8Image, spec: ImageInput) -> Float32Tensor:
    """Compute (pixel / 255 - mean) / std for each channel; where the card's scale is 0-255, pixel itself.

    Args:
        image: RGB, shape (h, w, 3), uint8.
        spec: the card's input section, which says the channels and the layout.

    Returns:
        Shape `spec.shape` for a picture of `spec.size`, float32, contiguous.
    """
    channels = _channels(image, spec)
    tables = _lookup_tables(spec.mean, spec.std, 255.0 if spec.scale == "0-1" else 1.0)
    tensor = np.empty((len(channels), *image.shape[:2]), np.float32)
    for channel, table, out in zip(channels, tables, tensor, strict=True):
        cv2.LUT(channel, table, out)  # takes a twentieth of the time of the arithmetic and gives the same values
    return tensor if spec.layout == "nchw" else np.ascontiguousarray(tensor.transpose(1, 2, 0))


def normalise_all(images: Sequence[UInt8Image], spec: ImageInput) -> Float32Tensor:
    """Return what `normalise` makes of each of several pictures of one size, shape (N, …), in one go."""
    count, (height, width, _) = len(images), images[0].shape
    together = normalise(np.concatenate(images), spec)
    if spec.layout == "nhwc":
        return together.reshape(count, height, width, -1)
    return np.ascontiguousarray(together.reshape(-1, count, height, width).swapaxes(0, 1))


def _channels(image: UInt8Image, spec: ImageInput) -> Sequence[MatLike]:
    """Return the channels that the network gets, in its order, each of shape (h, w), uint8."""
    if spec.channels == "grey":
        return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)]
    channels = cv2.split(image)
    return channels if spec.channels == "rgb" else channels[::-1]


@cache
def _lookup_tables(mean: tuple[float, ...], std: tuple[float, ...], highest: float) -> tuple[Float32Tensor, ...]:
    """Return, for each channel, the normalised value of each of the 256 pixel values, shape (1, 256)."""
    scales = 1.0 / (highest * np.asarray(std, np.float64))
    offsets = -np.asarray(mean, np.float64) / np.asarray(std, np.float64)
    pixels = np.arange(256, dtype=np.float32)
    return tuple(
        (pixels * scale + offset).reshape(1, 256)
        for scale, offset in zip(scales.astype(np.float32), offsets.astype(np.float32), strict=True)
    )
