"""A map lies where the network looked, in pixels of the upload."""

import numpy as np
import numpy.typing as npt
import pytest

from explain.overlay import heatmap
from preprocessing.spec import ImageInput
from serving.gradcam.heat import picture_heatmap


def spec(**changes: object) -> ImageInput:
    values = {"size": (64, 64), "library": "opencv", "kernel": "linear", "mean": (0, 0, 0), "std": (1, 1, 1)}
    return ImageInput.model_validate(values | changes)


def one_cell(row: int, column: int) -> npt.NDArray[np.float32]:
    """A map of 4 x 4 cells, each of 16 x 16 pixels of the input, with one that counts."""
    cam = np.zeros((4, 4), np.float32)
    cam[row, column] = 5.0
    return cam


def middle(heat: npt.NDArray[np.float32]) -> tuple[float, float]:
    """Where the weight of a heatmap lies, row and column."""
    rows, columns = np.indices(heat.shape) + 0.5
    return float((rows * heat).sum() / heat.sum()), float((columns * heat).sum() / heat.sum())


def test_a_cut_picture_has_its_heat_in_the_middle_part_and_none_elsewhere() -> None:
    # 100 x 300 is resized to 64 x 192, of which columns 64 to 128 are the input: columns 100 to 200 of the picture.
    heat = picture_heatmap(one_cell(1, 2), (100, 300), spec(resize="short_side"))
    assert heat.shape == (100, 300) and heat.max() == pytest.approx(1.0)
    assert not heat[:, :100].any() and not heat[:, 200:].any()
    assert middle(heat) == pytest.approx((37.5, 162.5), abs=2)


def test_the_padding_of_a_letterbox_is_left_out() -> None:
    # 100 x 200 is resized to 32 x 64, rows 16 to 48 of the input: the cell's rows 16 to 32 are its upper half.
    heat = picture_heatmap(one_cell(1, 2), (100, 200), spec(resize="letterbox"))
    assert heat.shape == (100, 200) and heat.max() == pytest.approx(1.0)
    row, column = middle(heat)
    assert 20 <= row <= 30 and column == pytest.approx(125, abs=3)


def test_what_the_network_saw_in_the_padding_is_not_made_up_for_in_the_picture() -> None:
    # 30 x 200 is resized to 10 x 64, rows 27 to 37 of the input: the cell at the top ends 11 rows above.
    cam = 5 * one_cell(0, 0) + one_cell(1, 2)
    heat = picture_heatmap(cam, (30, 200), spec(resize="letterbox"))
    assert 0.1 < heat.max() < 0.25
    assert picture_heatmap(one_cell(0, 0), (20, 200), spec(resize="letterbox")).max() < 0.02


def test_a_stretched_picture_has_the_heatmap_that_it_always_had() -> None:
    cam = np.random.default_rng(3).random((7, 7)).astype(np.float32)
    assert np.array_equal(picture_heatmap(cam, (90, 130), spec()), heatmap(cam, (90, 130)))
