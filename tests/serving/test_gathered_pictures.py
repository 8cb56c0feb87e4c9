"""Pictures that are normalised together give the network, bit for bit, what each of them gives it alone."""

from typing import Any

import numpy as np
import pytest

from backends.base import Batch, Outputs
from errors import InvalidInput
from models.card import ImageCard
from preprocessing.spec import Clahe, ImageInput
from serving.gathered_pictures import GatheredPictures
from serving.pipeline import EarlyExitPipeline, ImagePayload, ImagePipeline, TransformedImage
from tests.conftest import encode
from tests.serving.test_pipeline import FakeBackend, image_card


class Recording(FakeBackend):
    """Keeps the tensors that it is given."""

    tensors: Batch

    def run(self, batch: Batch) -> Outputs:
        self.tensors = batch
        return super().run(batch)


def card_with(**changes: Any) -> ImageCard:
    """Return the tiny card with another input section."""
    card = image_card()
    changed = ImageInput.model_validate(card.input.model_dump(exclude_none=True) | changes)
    return card.model_copy(update={"input": changed})


def pictures(count: int) -> list[bytes]:
    """Return PNGs of random pixels and different sizes; the first is of the input's own."""
    rng = np.random.default_rng(0)
    sizes = [(16, 16), (20, 31), (40, 9), (16, 17)]
    return [encode(rng.integers(0, 256, (*sizes[index % 4], 3)).astype(np.uint8)) for index in range(count)]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"layout": "nhwc"},
        {"channels": "bgr", "scale": "0-255"},
        {"channels": "grey", "mean": [0.5], "std": [0.25]},
        {"channels": "grey", "mean": [0.5], "std": [0.25], "layout": "nhwc"},
        {"resize": "letterbox", "fill": [1, 2, 3]},
        {"clahe": Clahe(clip_limit=2.0, tiles=(2, 2)).model_dump()},
        {"size": [12, 20], "mean": [0.1, 0.2, 0.3], "std": [0.9, 0.8, 0.7]},
    ],
)
@pytest.mark.parametrize("count", [1, 2, 7])
def test_together_is_as_alone(changes: dict[str, Any], count: int) -> None:
    card, backend = card_with(**changes), Recording(2)
    images = ImagePipeline(card, backend)  # type: ignore[arg-type]
    payloads: list[ImagePayload] = [*pictures(count)]
    together = GatheredPictures(card, images)

    def check(payloads: list[ImagePayload]) -> None:
        expected = images.infer([images.preprocess(payload) for payload in payloads])
        tensors = backend.tensors
        results = together.infer([together.preprocess(payload) for payload in payloads])
        assert np.array_equal(backend.tensors, tensors) and backend.tensors.flags.c_contiguous
        assert backend.tensors.dtype == np.float32
        for result, own in zip(results, expected, strict=True):
            assert np.array_equal(result.logits, own.logits) and result.sharpness == own.sharpness

    check(payloads)
    check([*payloads, TransformedImage(np.zeros(card.input.shape, np.float32))])


def test_the_part_that_answered_is_told() -> None:
    card, counted = image_card(), list[str]()
    backend = FakeBackend(2, ["early_exit", "network"])
    images = EarlyExitPipeline(card, backend, counted.append)  # type: ignore[arg-type]
    images.begin_counting()
    together = GatheredPictures(card, images)
    results = together.infer([together.preprocess(picture) for picture in pictures(2)])
    assert [result.answered_by for result in results] == counted == ["early_exit", "network"]


def test_what_is_no_picture_is_refused() -> None:
    together = GatheredPictures(image_card(), ImagePipeline(image_card(), FakeBackend(2)))  # type: ignore[arg-type]
    for payload in (b"no picture", TransformedImage(np.full((3, 16, 16), np.nan, np.float32))):
        with pytest.raises(InvalidInput):
            together.preprocess(payload)
