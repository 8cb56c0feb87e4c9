"""From an encoded picture to the model's input in one call: decode, then transform."""

from typing import Literal, NamedTuple, Protocol

from errors import InvalidInput
from preprocessing.decode import decode, decodes_within
from preprocessing.spec import Float32Tensor, ImageInput, ImageLimits, UInt8Image
from preprocessing.transform import resize, transform

QUICK_S = 0.5
"""A picture that may take longer than this to decode, in seconds of one core, is slow."""

INSTANT_S = 0.001
"""A picture that may take longer than this to decode, in seconds of one core, is not decoded on an event loop."""

_SHARPNESS_A_PIXEL_S = 1e-8
"""How long one core takes to measure the sharpness of a pixel."""

Keep = Literal["nothing", "resized", "original"]
"""Which pixels are returned beside the tensor: none, those of the model's input, or the picture's own."""


class PreparedPicture(NamedTuple):
    """A picture as the model takes it.

    Attributes:
        tensor: shape `spec.shape`, float32.
        sharpness: the picture's variance of the Laplacian; None where the card does not ask for it.
        area: how many pixels the picture has as it came.
        pixels: RGB, shape (H, W, 3), uint8, where they were to be kept.
    """

    tensor: Float32Tensor
    sharpness: float | None
    area: int
    pixels: UInt8Image | None = None


class Prepare(Protocol):
    """Prepares a picture, here or in another process."""

    def __call__(self, data: bytes, limits: ImageLimits, spec: ImageInput, keep: Keep = "nothing") -> PreparedPicture:
        """Decode and transform one picture; the errors are those of `decode`."""


def prepare(data: bytes, limits: ImageLimits, spec: ImageInput, keep: Keep = "nothing") -> PreparedPicture:
    """Decode and transform one picture in this thread.

    Args:
        data: the encoded bytes.
        limits: the limits section of the card.
        spec: the input section of the card.
        keep: which pixels to return as well.

    Raises:
        InvalidImage: as `decode`.
        TooLarge: as `decode`.
    """
    image = decode(data, limits, upright=spec.orientation == "apply")
    tensor, sharpness, area = transform(image, spec)
    if keep == "nothing":
        return PreparedPicture(tensor, sharpness, area)
    return PreparedPicture(tensor, sharpness, area, image if keep == "original" else resize(image, spec))


def sharpness_s(spec: ImageInput) -> float:
    """Return how many seconds measuring the sharpness takes for a pixel of an upload; 0.0 where it is not measured."""
    return _SHARPNESS_A_PIXEL_S if spec.blur_below is not None and spec.blur_at == "upload" else 0.0


def is_slow(data: bytes, limits: ImageLimits, pixel_s: float = 0.0) -> bool:
    """Return whether a picture may take more than `QUICK_S`; False for one that is refused before that.

    Args:
        data: the encoded bytes.
        limits: the limits section of the card.
        pixel_s: what each pixel takes beside its decoding, in seconds.
    """
    try:
        return not decodes_within(data, limits, QUICK_S, pixel_s)
    except InvalidInput:
        return False


def is_quick(data: bytes, limits: ImageLimits, pixel_s: float = 0.0) -> bool:
    """Return whether a picture takes at most `INSTANT_S`, or is refused; arguments as of `is_slow`."""
    try:
        return decodes_within(data, limits, INSTANT_S, pixel_s)
    except InvalidInput:
        return True
