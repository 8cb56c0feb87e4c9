"""RISE: where a picture must be seen for a score to be high, found by predicting it many times behind random masks.

No gradient is taken, and nothing of the network is known but its answers. A mask M shows a random half of the picture
and hides the rest; the map at a place λ is how far showing λ raises the score f above its mean over all masks:

    S(λ) = Σᵢ fᵢ Mᵢ(λ) / Σᵢ Mᵢ(λ) - mean of fᵢ

Source: Petsiuk et al. 2018, arXiv:1806.07421, eq. 6, whose map is the first of these terms with the expected mask in
the denominator. The mean score is subtracted here so that a place that does not matter is 0 and not as hot as the
score; dividing by the sum of the masks that were drawn keeps their own unevenness out of the map.
"""

from typing import Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from explain.base import Float32Array, MethodName

Float64Array = npt.NDArray[np.float64]
RiseName = Literal["rise"]
MapMethodName = Literal[MethodName, RiseName]
"""Every method that explains a picture; of those by a gradient, `explain.base` has the names."""
RISE: Final[RiseName] = "rise"

CELLS = 8
"""Into how many cells the masks' grid divides each side of the picture; the map blurs details smaller than a cell."""
SHOWN = 0.5
"""The probability that a knot of the grid is shown, which is every mask's expected value everywhere."""
DEFAULT_SAMPLES, LEAST_SAMPLES, MOST_SAMPLES = 300, 20, 8000
"""How many masks are drawn; the paper takes 4,000 to 8,000."""
MOST_MAP_SIDE = 32
"""The masks vary too slowly for a finer map to show more."""


class Masks(NamedTuple):
    """Masks as what they are interpolated from; the masks of any size follow from it.

    Attributes:
        knots: shape (N, CELLS + 2, CELLS + 2), float32, 1 where the picture is shown and 0 where it is hidden.
        shifts: shape (N, 2), float64 in [0, 1): how far down and right the grid is moved, in cells.
    """

    knots: Float32Array
    shifts: Float64Array

    def part(self, start: int, count: int) -> "Masks":
        """Return `count` of the masks, or as many as there are, from one of them on."""
        return Masks(self.knots[start : start + count], self.shifts[start : start + count])


class RiseMap(NamedTuple):
    """A map and how far chance may have moved it.

    Attributes:
        values: shape (h, w), float32, 0 or more, in the unit of the score.
        standard_error: of the value at the map's peak, over other draws of the masks; in the unit of the score.
    """

    values: Float32Array
    standard_error: float


def draw_masks(samples: int) -> Masks:
    """Draw masks; the same number of them is always the same, so that explanations can be repeated."""
    random = np.random.default_rng(0)
    knots = random.random((samples, CELLS + 2, CELLS + 2)) < SHOWN
    return Masks(knots.astype(np.float32), random.random((samples, 2)))


def rendered(masks: Masks, size: tuple[int, int]) -> Float32Array:
    """Return masks at a size, interpolated linearly between their knots.

    Args:
        masks: N of them.
        size: height and width of the picture.

    Returns:
        Shape (N, height, width), float32 in [0, 1].
    """
    rows, columns = (_weights(masks.shifts[:, axis], size[axis]) for axis in (0, 1))
    return np.asarray(rows @ masks.knots @ columns.transpose(0, 2, 1), np.float32)


def _weights(shifts: Float64Array, length: int) -> Float32Array:
    """Return how much each knot of an axis counts at each pixel, shape (N, length, CELLS + 2), float32."""
    places = (np.arange(length) + 0.5) * (CELLS / length) + shifts[:, None]
    distances = np.abs(places[:, :, None] - np.arange(CELLS + 2))
    return np.maximum(0.0, 1.0 - distances).astype(np.float32)


def map_size(size: tuple[int, int]) -> tuple[int, int]:
    """Return height and width of the map of an input of this height and width."""
    return min(MOST_MAP_SIDE, size[0]), min(MOST_MAP_SIDE, size[1])


def rise_maps(scores: Float64Array, masks: Masks, size: tuple[int, int]) -> list[RiseMap]:
    """Return the maps that follow from the scores behind masks.

    Args:
        scores: shape (N, targets), float64: of each masked picture the score of each target.
        masks: the N masks.
        size: height and width of the maps.
    """
    shown = rendered(masks, size).reshape(len(scores), -1)
    shown_in_all = shown.sum(axis=0, dtype=np.float64)
    maps = list[RiseMap]()
    for of_target in scores.T:
        values = shown.T @ (of_target - of_target.mean()).astype(np.float32) / shown_in_all
        peak = int(values.argmax())
        error = _standard_error(of_target, shown[:, peak].astype(np.float64))
        maps.append(RiseMap(np.maximum(values, 0.0).astype(np.float32).reshape(size), error))
    return maps


def _standard_error(scores: Float64Array, shown: Float64Array) -> float:
    """Return the standard error of the map at a place, shape (N,) each; that of a ratio, by the delta method."""
    where_shown = shown @ scores / shown.sum()
    influence = shown / shown.mean() * (scores - where_shown) - (scores - scores.mean())
    return float(influence.std(ddof=1) / np.sqrt(len(scores)))
