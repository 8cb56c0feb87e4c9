"""Where a picture lies in the network's input, worked out on paper."""

import numpy as np
import pytest
from pydantic import ValidationError

from errors import InvalidImage
from preprocessing.geometry import MOST_ELONGATED, place
from preprocessing.spec import ImageInput
from preprocessing.transform import resize, transform


def spec(**changes: object) -> ImageInput:
    values = {"size": (64, 64), "library": "opencv", "kernel": "linear", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return ImageInput.model_validate(values | changes)


def test_the_middle_of_a_picture_whose_short_side_is_resized() -> None:
    placement = place((100, 300), spec(resize="short_side", resize_to=80))
    assert placement.resized == (80, 240)
    assert placement.taken == (slice(8, 72), slice(88, 152)) and placement.inside == (slice(0, 64), slice(0, 64))
    assert placement.seen() == (slice(10, 90), slice(110, 190))
    assert placement.input_box() == (110, 10, 190, 90)
    assert not placement.is_whole


def test_a_letterbox_has_its_padding_around_the_picture() -> None:
    card = spec(resize="letterbox", fill=(114, 10, 0))
    placement = place((100, 200), card)
    assert placement.resized == (32, 64) and placement.inside == (slice(16, 48), slice(0, 64))
    assert placement.seen() == (slice(0, 100), slice(0, 200))
    assert placement.input_box() == (0, -50, 200, 150)
    fitted = resize(np.full((100, 200, 3), 77, np.uint8), card)
    assert fitted.shape == (64, 64, 3) and (fitted[16:48] == 77).all()
    assert (fitted[:16] == (114, 10, 0)).all() and (fitted[48:] == (114, 10, 0)).all()


def test_a_picture_that_is_not_resized_is_cut_or_padded() -> None:
    placement = place((100, 40), spec(resize="none"))
    assert placement.resized == (100, 40)
    assert placement.taken == (slice(18, 82), slice(0, 40)) and placement.inside == (slice(0, 64), slice(12, 52))


def test_a_stretched_picture_of_any_ratio_is_the_whole_input() -> None:
    placement = place((3, 5000), spec())
    assert placement.is_whole and placement.seen() == (slice(0, 3), slice(0, 5000))


def test_a_side_of_a_letterbox_is_never_less_than_a_pixel() -> None:
    assert place((8, 100_000), spec(resize="letterbox")).resized == (1, 64)


def test_a_picture_too_elongated_to_be_cut_is_refused_before_memory_is_taken_for_it() -> None:
    card = spec(resize="short_side")
    assert place((8, 8 * MOST_ELONGATED), card).resized == (64, 64 * MOST_ELONGATED)
    with pytest.raises(InvalidImage, match=r"40,000 x 8 pixels; .* at most 32 times as long"):
        transform(np.zeros((8, 40_000, 3), np.uint8), card)
    with pytest.raises(InvalidImage, match=r"8 x 256 pixels; .* at most 32 times as long"):
        place((256, 8), spec(size=(32, 1024), resize="short_side"))


def test_padding_has_no_part_in_the_sharpness() -> None:
    flat = np.full((40, 200, 3), 200, np.uint8)
    assert transform(flat, spec(resize="letterbox", blur_below=9.0)).sharpness == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"resize_to": 80, "crop_pct": 0.8}, "give one"),
        ({"resize": "none", "resize_to": 80}, "no meaning"),
        ({"resize": "crop"}, "'stretch', 'short_side', 'letterbox' or 'none'"),
        ({"crop_pct": 1.5}, "less than or equal to 1"),
        ({"fill": (0, 0, 300)}, "less than or equal to 255"),
        ({"channels": "grey"}, "mean: channels 'grey' needs 1 of them, not 3"),
        ({"std": (1.0,)}, "std: channels 'rgb' needs 3 of them, not 1"),
    ],
)
def test_keys_that_do_not_fit_one_another_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        spec(**changes)
