"""The requests that predictions make of the Grad-CAM process."""

import asyncio

import numpy as np
import pytest

from errors import InvalidInput, TooLarge
from models.card import as_image_card, parse_card
from preprocessing.decode import decode
from serving.gradcam.requests import default_request
from serving.pipeline import DecodedImage, TransformedImage
from tests.tiny import CARD, EXPLAINED, bright_square, plain

TINY = as_image_card(parse_card(CARD.format(name="tiny") + EXPLAINED, "the tiny card"))


def test_an_encoded_picture_travels_as_it_came_and_the_predicted_class_is_explained() -> None:
    request = asyncio.run(default_request(TINY, plain(9), 0.3, "overlay"))
    assert (request.data, request.targets, request.method) == (plain(9), (), "layercam")
    assert (request.threshold, request.at_input_size) == (0.3, False)


def test_a_map_is_asked_for_at_the_size_of_the_input() -> None:
    assert asyncio.run(default_request(TINY, plain(9), None, "map")).at_input_size


def test_pixels_travel_as_a_file_that_decodes_to_the_same_pixels() -> None:
    request = asyncio.run(default_request(TINY, DecodedImage(bright_square()), None, "overlay"))
    assert np.array_equal(decode(request.data, TINY.limits), bright_square())


def test_what_cannot_be_drawn_on_is_refused() -> None:
    tensor = TransformedImage(np.zeros((3, 16, 16), np.float32))
    with pytest.raises(InvalidInput, match="no map of a tensor"):
        asyncio.run(default_request(TINY, tensor, None, "map"))
    large = DecodedImage(np.broadcast_to(np.uint8(0), (10_000, 10_000, 3)))
    with pytest.raises(TooLarge):
        asyncio.run(default_request(TINY, large, None, "overlay"))
