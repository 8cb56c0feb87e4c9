"""Boxes in pixels of a picture, and where they come to lie in a network's input."""

from pathlib import Path

import numpy as np
import pytest

from errors import StoreError
from export.boxed_pictures import Box, box_mask, read_cases
from models.card import ImageCard, read_image_card
from tests.conftest import encode
from tests.tiny import bright_square, tiny_package

HEADER = "picture,x,y,width,height\n"


@pytest.fixture
def card(tmp_path: Path) -> ImageCard:
    """Of a network whose input is 16 x 16 pixels."""
    return read_image_card(tiny_package(tmp_path / "package") / "card.toml")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures, of 32 x 64 and of 16 x 16 pixels."""
    (tmp_path / "pictures" / "ward").mkdir(parents=True)
    (tmp_path / "pictures" / "ward" / "a.png").write_bytes(encode(np.zeros((32, 64, 3), np.uint8)))
    (tmp_path / "pictures" / "b.png").write_bytes(encode(bright_square()))
    return tmp_path / "pictures"


def test_a_box_is_resized_as_the_picture_is(card: ImageCard) -> None:
    mask = box_mask([Box(32, 8, 16, 8)], (32, 64), card.input)  # halved in height, quartered in width
    assert mask.shape == (16, 16) and mask[4:8, 8:12].all() and mask.sum() == 16


def test_a_box_smaller_than_a_pixel_of_the_input_is_kept(card: ImageCard) -> None:
    mask = box_mask([Box(401, 3, 1, 1)], (800, 800), card.input)
    assert mask[0, 8] and mask.sum() == 1


def test_a_box_in_what_is_cut_off_is_not_seen(card: ImageCard) -> None:
    cut = card.input.model_copy(update={"resize": "short_side", "fill": (255, 255, 255)})
    assert not box_mask([Box(0, 0, 8, 16)], (16, 48), cut).any()
    assert box_mask([Box(16, 0, 8, 16)], (16, 48), cut)[:, :8].all()


def test_with_boxes_those_pictures_alone_are_measured_on(card: ImageCard, folder: Path) -> None:
    (folder / "boxes.csv").write_text(HEADER + "b.png,0,0,4,4\nb.png,8,8,2,2\n")
    (case,) = read_cases(folder, card, 10)
    assert case.mask.sum() == 16 + 4 and case.grey.shape == (16, 16)
    assert case.tensor[0, 0, 0] == pytest.approx((250 / 255 - 0.5) / 0.5)


def test_without_boxes_every_picture_counts_and_no_place_is_known(card: ImageCard, folder: Path) -> None:
    cases = read_cases(folder, card, 10)
    assert len(cases) == 2 and not any(case.mask.any() for case in cases)
    assert len(read_cases(folder, card, 1)) == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("picture,x,y\nb.png,1,2\n", "no width there"),
        (HEADER + "b.png,1,2,3\n", "line 2: x, y, width and height must be numbers"),
        (HEADER + "b.png,1,2,3,four\n", "line 2: x, y"),
        (HEADER + "b.png,1,2,3,4\nb.png,1,2,0,4\n", "line 3: width and height must be above 0"),
        (HEADER + "b.png,1,2,nan,4\n", "line 2: width and height"),
        (HEADER + "c.png,1,2,3,4\n", "no picture 'c.png'"),
        (HEADER, "has no boxes"),
        (HEADER + "b.png,400,400,9,9\n", "sees none of these boxes"),
    ],
)
def test_boxes_that_cannot_be_read_are_refused_with_their_line(
    card: ImageCard, folder: Path, text: str, message: str
) -> None:
    (folder / "boxes.csv").write_text(text)
    with pytest.raises(StoreError, match=message):
        read_cases(folder, card, 10)


def test_a_picture_that_cannot_be_decoded_is_named(card: ImageCard, folder: Path) -> None:
    (folder / "broken.png").write_bytes(b"no picture")
    with pytest.raises(StoreError, match=r"broken\.png"):
        read_cases(folder, card, 10)
