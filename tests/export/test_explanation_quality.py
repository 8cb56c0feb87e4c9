import numpy as np
import pytest

from export import explanation_quality as quality


def mask_at(row: int, column: int, size: int = 60) -> quality.Mask:
    mask = np.zeros((size, size), bool)
    mask[row, column] = True
    return mask


@pytest.mark.parametrize(
    ("point", "expected"), [((30, 30), True), ((30, 45), True), ((30, 46), False), ((39, 42), True), ((41, 42), False)]
)
def test_a_point_hits_within_15_px_of_the_mask_and_not_beyond(point: quality.Point, expected: bool) -> None:
    assert quality.is_hit(point, mask_at(30, 30), 15) is expected  # (9, 12) away is 15 px, (11, 12) is 16.3


def test_a_flat_heatmap_points_at_the_middle_like_the_blind_baseline() -> None:
    assert quality.peak(np.full((40, 60), 0.3, np.float32)) == quality.centre((40, 60)) == (20, 30)


def test_energy_is_the_share_of_the_heatmap_on_the_mask() -> None:
    heat = np.zeros((4, 4), np.float32)
    heat[0, 0], heat[3, 3] = 3.0, 1.0
    mask = np.zeros((4, 4), bool)
    mask[0] = True
    assert quality.energy(heat, mask) == 0.75
    assert quality.energy(np.zeros((4, 4), np.float32), mask) == 0.0


def test_a_mask_is_dilated_by_a_disc() -> None:
    dilated = quality.dilate(mask_at(30, 30), 5)
    rows, columns = np.nonzero(dilated)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (25, 35, 25, 35)
    assert not dilated[26, 26]  # a corner, 5.7 px away
    assert abs(dilated.sum() - np.pi * 5.5**2) < 15


def test_the_brightest_blob_is_the_small_disc_not_the_bright_plain() -> None:
    grey = np.zeros((80, 80), np.float32)
    grey[:, 50:] = 200.0
    grey[20:24, 20:24] = 150.0
    row, column = quality.brightest_blob(grey)
    assert abs(row - 21.5) <= 1
    assert abs(column - 21.5) <= 1


def test_insertion_rises_at_once_and_deletion_falls_at_once_where_the_map_is_right() -> None:
    tensor = np.zeros((3, 40, 40), np.float32)
    tensor[:, 10:14, 10:14] = 1.0
    right, wrong = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    right[10:14, 10:14], wrong[30:34, 30:34] = 1.0, 1.0

    def score(batch: np.ndarray) -> np.ndarray:
        return np.asarray(batch[:, 0, 10:14, 10:14].mean((1, 2)), np.float64)

    inserted, deleted = quality.insertion_deletion(score, tensor, right, 20)
    assert inserted[0] < 0.5 < inserted[1]  # 80 of 1,600 pixels: all 16 that matter
    assert deleted[0] == 1.0 and deleted[1] < 0.5
    assert inserted[-1] == 1.0
    other, _ = quality.insertion_deletion(score, tensor, wrong, 20)
    assert quality.area_under(inserted) > quality.area_under(other) + 0.1


def test_the_area_under_a_straight_line_is_a_half() -> None:
    assert quality.area_under(np.linspace(0, 1, 11)) == pytest.approx(0.5)
    assert quality.area_under(np.array([1.0, 0.0, 1.0])) == pytest.approx(0.5)
