"""RISE's masks and maps, against what follows for linear scores from how the masks are drawn."""

import numpy as np
import numpy.typing as npt
import pytest

from explain.rise import CELLS, SHOWN, draw_masks, map_size, rendered, rise_maps

SIZE = (24, 16)


def spline(distance: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The cubic B-spline: how alike two places of an axis are shown, by their distance in cells."""
    near, far = 2 / 3 - distance**2 + distance**3 / 2, np.maximum(0, 2 - distance) ** 3 / 6
    return np.asarray(np.where(distance < 1, near, far))


def expected_map(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The map of Σ weights · mask over all masks there could be: the weights, smoothed as far as masks are smooth."""
    rows, columns = ((np.arange(side) + 0.5) * CELLS / side for side in SIZE)
    across = spline(np.abs(rows[:, None] - rows)), spline(np.abs(columns[:, None] - columns))
    return np.asarray((1 - SHOWN) * across[0] @ weights @ across[1])


def test_masks_show_every_place_as_often_and_vary_smoothly() -> None:
    shown = rendered(draw_masks(2000), SIZE)
    assert shown.shape == (2000, *SIZE) and shown.min() >= 0 and shown.max() <= 1
    assert shown.mean(axis=0) == pytest.approx(np.full(SIZE, SHOWN), abs=0.04)
    steps = [np.abs(np.diff(shown, axis=axis)).max() for axis in (1, 2)]
    assert steps[0] <= CELLS / SIZE[0] + 1e-5 and steps[1] <= CELLS / SIZE[1] + 1e-5


def test_the_map_of_a_linear_score_is_its_weights_as_smooth_as_the_masks() -> None:
    weights, masks = np.zeros(SIZE), draw_masks(8000)
    weights[4:6, 10:12] = 0.2
    weights[17, 3] = -0.5
    scores = 3.0 + np.einsum("nij,ij->n", rendered(masks, SIZE), weights)
    (found,) = rise_maps(scores[:, None], masks, SIZE)
    expected = expected_map(weights)
    assert np.abs(found.values - np.maximum(expected, 0)).max() < 5 * found.standard_error < 0.1 * expected.max()
    peak = np.unravel_index(found.values.argmax(), SIZE)
    assert 3 <= peak[0] <= 6 and 9 <= peak[1] <= 12


def test_the_standard_error_is_how_far_other_draws_lie_apart() -> None:
    weights, masks = np.zeros(SIZE), draw_masks(8000)
    weights[4:6, 10:12] = 0.2
    scores = np.einsum("nij,ij->n", rendered(masks, SIZE), weights)
    draws = [
        rise_maps(scores[start : start + 100, None], masks.part(start, 100), SIZE)[0] for start in range(0, 8000, 100)
    ]
    peaks = [draw.values[5, 11] for draw in draws]
    assert np.mean([draw.standard_error for draw in draws]) == pytest.approx(np.std(peaks), rel=0.25)


def test_several_targets_are_explained_as_each_alone() -> None:
    masks = draw_masks(50)
    scores = np.random.default_rng(1).random((50, 2))
    both = rise_maps(scores, masks, (5, 7))
    for target, explained in enumerate(both):
        (alone,) = rise_maps(scores[:, [target]], masks, (5, 7))
        assert explained.values == pytest.approx(alone.values, abs=1e-6)
        assert explained.standard_error == pytest.approx(alone.standard_error)


def test_a_score_that_no_mask_changes_has_an_empty_map() -> None:
    (found,) = rise_maps(np.full((40, 1), 0.7), draw_masks(40), (8, 8))
    assert found.values.max() < 1e-12 and found.standard_error < 1e-12


def test_masks_are_the_same_every_time() -> None:
    first, second = draw_masks(30), draw_masks(30)
    assert np.array_equal(first.knots, second.knots) and np.array_equal(first.shifts, second.shifts)
    assert np.array_equal(rendered(first, SIZE)[7:9], rendered(first.part(7, 2), SIZE))


def test_a_map_has_at_most_32_cells_a_side() -> None:
    assert (map_size((224, 16)), map_size((16, 299))) == ((32, 16), (16, 32))
