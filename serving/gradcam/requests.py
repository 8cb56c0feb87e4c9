"""The requests that predictions make of the Grad-CAM process on a caller's behalf."""

import asyncio

import cv2

from errors import InvalidInput
from explain.overlay import Output
from models.card import ImageCard
from preprocessing.decode import check_size
from serving.gradcam.wire import ExplanationRequest
from serving.pipeline import DecodedImage, ImagePayload, TransformedImage

DEFAULT_ALPHA = 0.5
"""The opacity of an overlay at its peak, where none is asked for."""


async def default_request(
    card: ImageCard, payload: ImagePayload, threshold: float | None, output: Output
) -> ExplanationRequest:
    """Return the request to explain the predicted class by the card's own method.

    Args:
        card: the model's card.
        payload: the picture, which travels to the Grad-CAM process as an encoded file.
        threshold: used instead of the card's, where it decides what is predicted.
        output: an overlay is drawn at the upload's own size, the map needs no drawing.

    Raises:
        InvalidInput: the picture is transformed already, so that nothing could be drawn on.
        TooLarge: the picture has more pixels than the card allows.
    """
    data = await _encoded(payload, card)
    method = card.explain.method if card.explain else ""
    at_input_size = output == "map"
    return ExplanationRequest(data, (), method, output, DEFAULT_ALPHA, at_input_size, threshold)


async def _encoded(payload: ImagePayload, card: ImageCard) -> bytes:
    """Return a picture as an encoded file, which is how it travels to the Grad-CAM process."""
    if isinstance(payload, bytes):
        return payload
    if isinstance(payload, TransformedImage):
        raise InvalidInput("There is no map of a tensor: send the picture itself, or its pixels.")
    height, width, _ = payload.pixels.shape
    check_size(width, height, card.limits)
    return await asyncio.to_thread(_to_png, payload)


def _to_png(payload: DecodedImage) -> bytes:
    fast = [cv2.IMWRITE_PNG_COMPRESSION, 1]
    return cv2.imencode(".png", cv2.cvtColor(payload.pixels, cv2.COLOR_RGB2BGR), fast)[1].tobytes()
