"""How good maps are, against a truth: where the thing is that the class is about.

Figures of one case are functions here; `cli.explain` runs them over many. Masks and heatmaps have the size of the
model's input. The measures are those of the literature, and say nothing of real patients.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from explain.base import Float32Array

Mask = npt.NDArray[np.bool_]
Point = tuple[int, int]
"""Row and column, in pixels."""

Score = Callable[[Float32Array], npt.NDArray[np.float64]]
"""(N, 3, h, w) float32 → probability of the class explained, (N,) in [0, 1]."""


class Case(NamedTuple):
    """One input and its truth.

    tensor: (3, h, w) float32, as the model gets it. mask: (h, w) bool, True on the thing to be found.
    grey: (h, w) float32, the picture before normalisation, for baselines.
    """

    tensor: Float32Array
    mask: Mask
    grey: Float32Array


def peak(heat: Float32Array) -> Point:
    """The place of the highest value; the middle of the picture if all are equal, since that points nowhere."""
    if float(heat.max()) == float(heat.min()):
        return centre(heat.shape)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)


def hit(point: Point, mask: Mask, tolerance_px: float) -> bool:
    """The pointing game: whether a point is at most `tolerance_px` from the mask (Zhang et al. 2018, with 15)."""
    outside = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(outside[point] <= tolerance_px)


def energy(heat: Float32Array, mask: Mask) -> float:
    """The share of the heatmap that lies on the mask, in [0, 1] (the energy-based pointing game, Wang et al. 2020)."""
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 else 0.0


def grown(mask: Mask, by_px: int) -> Mask:
    """The mask and all that is at most `by_px` from it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * by_px + 1, 2 * by_px + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def centre(shape: tuple[int, ...]) -> Point:
    """Baseline: the middle of the picture."""
    return shape[0] // 2, shape[1] // 2


def brightest_blob(grey: Float32Array, sigma_px: float = 2.0) -> Point:
    """Baseline: where the picture is most like a small bright disc (difference of Gaussians; Lowe 2004)."""
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma_px * scale) for scale in (1.0, 1.6))
    return peak(np.asarray(fine - coarse, np.float32))


def insertion_deletion(
    score: Score, tensor: Float32Array, heat: Float32Array, steps: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The class's probability as the hottest pixels are shown first, and as they are hidden first.

    Petsiuk et al. 2018. Hidden means blurred beyond recognition (Gaussian, a tenth of the side). A good map makes the
    first curve rise early and the second fall early.

    Returns:
        Insertion and deletion, each (steps + 1,), at shares 0, 1/steps … 1 of the pixels.
    """
    order = np.argsort(-heat, axis=None, kind="stable")
    sigma = tensor.shape[1] / 10
    hidden = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in tensor]).astype(np.float32)
    shown = [round(order.size * step / steps) for step in range(steps + 1)]
    inserted, deleted = [], []
    for count in shown:
        chosen = np.zeros(order.size, bool)
        chosen[order[:count]] = True
        hot = chosen.reshape(heat.shape)
        inserted.append(np.where(hot, tensor, hidden))
        deleted.append(np.where(hot, hidden, tensor))
    return score(np.stack(inserted)), score(np.stack(deleted))


def area(curve: npt.NDArray[np.float64]) -> float:
    """Area under a curve over shares 0 to 1, by trapezoids."""
    return float((curve[:-1] + curve[1:]).sum() / (2 * (len(curve) - 1)))


def wilson(hits: int, of: int) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927)."""
    z, share = 1.959964, hits / of
    middle = (share + z * z / (2 * of)) / (1 + z * z / of)
    half = z / (1 + z * z / of) * float(np.sqrt(share * (1 - share) / of + z * z / (4 * of * of)))
    return middle - half, middle + half
