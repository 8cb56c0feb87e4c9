"""Pictures that are to be explained and drawn on: what is kept of one while its map is computed, and the drawing."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from errors import NoExplanation
from explain.overlay import grey, heatmap, overlay, png
from models.card import ImageCard
from preprocessing.decode import check_structure
from preprocessing.prepare import Keep, Prepare, is_slow, sharpness_s
from preprocessing.spec import UInt8Image
from serving.gradcam.heat import picture_heatmap
from serving.gradcam.wire import ExplanationRequest

MAX_DRAWN_PIXELS, MAX_DRAWN_SIDE = 16_000_000, 65_535
"""The largest picture that is drawn on at its own size; to draw on as much noise takes a second of one core."""

_DRAWING_A_PIXEL_S = 60e-9
"""How long one core takes to draw on a pixel of noise, heatmap and PNG together."""


class PreparedPicture(NamedTuple):
    """A picture that is decoded and transformed, with the request it came in.

    Attributes:
        request: what to explain, and how.
        image: RGB, shape (H, W, 3), uint8, at the size that it is drawn at; None where it is not drawn.
        tensor: shape `card.input.shape`, float32, as the network takes it.
        sharpness: the picture's variance of the Laplacian; None where the card does not ask for it.
        size: width and height of what is drawn, in pixels.
        area: how many pixels the picture has as it came.
    """

    request: ExplanationRequest
    image: UInt8Image | None
    tensor: npt.NDArray[np.float32]
    sharpness: float | None
    size: tuple[int, int]
    area: int


def prepare_to_draw(prepare_picture: Prepare, card: ImageCard, request: ExplanationRequest) -> PreparedPicture:
    """Decode and transform one picture, and keep as much of it as its drawing needs.

    Args:
        prepare_picture: decodes and transforms, here or in another process.
        card: the model's card.
        request: what to explain, and how.

    Raises:
        InvalidInput: the picture cannot be used.
        NoExplanation: it is too large to be drawn on.
    """
    structure = check_structure(request.data, card.limits)
    size = structure.width, structure.height
    keep: Keep = "original"
    if request.at_input_size or request.output == "map":
        keep = "resized" if request.at_input_size else "nothing"
    elif structure.width * structure.height > MAX_DRAWN_PIXELS or max(size) > MAX_DRAWN_SIDE:
        raise NoExplanation(
            f"{structure.width}×{structure.height} pixels are too many to draw on (at most {MAX_DRAWN_PIXELS:,}, "
            f"and {MAX_DRAWN_SIDE:,} on a side). Ask /explain for size=input."
        )
    picture = prepare_picture(request.data, card.limits, card.input, keep)
    if picture.pixels is not None:
        size = picture.pixels.shape[1], picture.pixels.shape[0]
    elif structure.orientation >= 5 and card.input.orientation == "apply":
        size = size[1], size[0]
    return PreparedPicture(request, picture.pixels, picture.tensor, picture.sharpness, size, picture.area)


def is_slow_to_draw(card: ImageCard, request: ExplanationRequest) -> bool:
    """Return whether a picture may take long to decode and to draw on."""
    drawing_s = 0.0 if request.at_input_size or request.output == "map" else _DRAWING_A_PIXEL_S
    return is_slow(request.data, card.limits, drawing_s + sharpness_s(card.input))


def draw(card: ImageCard, picture: PreparedPicture, values: npt.NDArray[np.float32]) -> bytes | None:
    """Return the heatmap in grey, or laid over the picture, as a PNG; None where the numbers were asked for.

    Args:
        card: the model's card.
        picture: which is drawn on as its request asks.
        values: the map, shape (h, w), float32, 0 or more.
    """
    request, image = picture.request, picture.image
    if request.output == "map" or image is None:
        return None
    size = image.shape[0], image.shape[1]
    # Where it is drawn at the input's size, the picture is the network's input itself.
    heat = heatmap(values, size) if request.at_input_size else picture_heatmap(values, size, card.input)
    return png(grey(heat) if request.output == "heatmap" else overlay(image, heat, request.alpha))
