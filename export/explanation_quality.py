"""Measures of a heatmap's quality, compared with a mask of the object that the class is about.

Each function measures one case; `export.explanation_report` applies them to many. Masks and heatmaps have the size of
the model's input. The measures are those of the literature; what they are on synthetic pictures says nothing about real
patients.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from explain.base import Float32Array

TOLERANCE_PX = 15
"""How far from the object the pointing game lets a heatmap peak, in pixels (Zhang et al. 2018)."""

Mask = npt.NDArray[np.bool_]
Point = tuple[int, int]
"""Row and column, in pixels."""

Score = Callable[[Float32Array], npt.NDArray[np.float64]]
"""A function from inputs (N, 3, h, w), float32, to the probability of the explained class, (N,), in [0, 1]."""


class Case(NamedTuple):
    """One input and its truth.

    Attributes:
        tensor: the model's input, shape (3, h, w), float32.
        mask: True on the object to be found, shape (h, w), bool; all False where nobody knows it.
        grey: the picture before normalisation, for baselines; shape (h, w), float32, in [0, 255].
    """

    tensor: Float32Array
    mask: Mask
    grey: Float32Array


def peak(heat: Float32Array) -> Point:
    """Return the position of the highest value, or the centre if all values are equal, which points nowhere."""
    if float(heat.max()) == float(heat.min()):
        return centre(heat.shape)
    row, column = np.unravel_index(int(heat.argmax()), heat.shape)
    return int(row), int(column)


def is_hit(point: Point, mask: Mask, tolerance_px: float) -> bool:
    """Return whether a point is at most `tolerance_px` from the mask.

    This is the pointing game (Zhang et al. 2018, with a tolerance of 15 pixels).
    """
    distance_px = cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return bool(distance_px[point] <= tolerance_px)


def energy(heat: Float32Array, mask: Mask) -> float:
    """Return the share of the heatmap's sum that lies on the mask, in [0, 1].

    This is the energy-based pointing game (Wang et al. 2020).
    """
    total = float(heat.sum())
    return float(heat[mask].sum()) / total if total > 0 else 0.0


def dilate(mask: Mask, radius_px: int) -> Mask:
    """Return the mask with all pixels that are at most `radius_px` from it."""
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius_px + 1, 2 * radius_px + 1))
    return np.asarray(cv2.dilate(mask.astype(np.uint8), disc) > 0)


def centre(shape: tuple[int, ...]) -> Point:
    """Return the centre of the picture, a baseline that ignores it."""
    return shape[0] // 2, shape[1] // 2


def brightest_blob(grey: Float32Array, sigma_px: float = 2.0) -> Point:
    """Return where the picture is most like a small bright disc, a baseline that ignores the model.

    The similarity is the difference of Gaussians (Lowe 2004).
    """
    fine, coarse = (cv2.GaussianBlur(grey, (0, 0), sigma_px * scale) for scale in (1.0, 1.6))
    return peak(np.asarray(fine - coarse, np.float32))


def insertion_deletion(
    score: Score, tensor: Float32Array, heat: Float32Array, steps: int
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Compute the class's probability while the hottest pixels are inserted first, and while they are deleted first.

    A deleted pixel is blurred beyond recognition, by a Gaussian of a tenth of the picture's side. A good heatmap makes
    the insertion curve rise early and the deletion curve fall early.

    Args:
        score: computes the probability.
        tensor: the model's input, shape (3, h, w), float32.
        heat: shape (h, w), float32.
        steps: number of steps from none to all of the pixels.

    Returns:
        The insertion and the deletion curve, each of shape (steps + 1,), at shares 0, 1/steps … 1 of the pixels.

    Source: Petsiuk et al. 2018.
    """
    order = np.argsort(-heat, axis=None, kind="stable")
    sigma = tensor.shape[1] / 10
    blurred = np.stack([cv2.GaussianBlur(channel, (0, 0), sigma) for channel in tensor]).astype(np.float32)
    inserted, deleted = [], []
    for step in range(steps + 1):
        flat = np.zeros(order.size, bool)
        flat[order[: round(order.size * step / steps)]] = True
        hottest = flat.reshape(heat.shape)
        inserted.append(np.where(hottest, tensor, blurred))
        deleted.append(np.where(hottest, blurred, tensor))
    return score(np.stack(inserted)), score(np.stack(deleted))


def area_under(curve: npt.NDArray[np.float64]) -> float:
    """Return the area under a curve over shares from 0 to 1, by trapezoids."""
    return float((curve[:-1] + curve[1:]).sum() / (2 * (len(curve) - 1)))
