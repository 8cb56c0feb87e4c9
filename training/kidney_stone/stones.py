"""Kidney stones: irregular, dense and small, yet large or dense enough to be visible in a model's input."""

from dataclasses import dataclass

import cv2
import numpy as np

from training.kidney_stone.canvas import Float32Array, Points, Pose, UInt8Array, place
from training.kidney_stone.scanner import Scanner

VISIBLE_AT_PX = 224
"""Side of the square picture in which a stone must be visible."""
MIN_CONTRAST_GREY = 48.0
MIN_CONTRAST_TO_NOISE = 5.5
MIN_WIDTH_PX = 2.5
"""Least contrast in grey levels and in standard deviations of the noise, and least width, of a visible stone."""
MAX_SCALED_DIAMETER_MM = 26.0
"""Largest diameter to which `stone_scale` may enlarge a stone."""


@dataclass(frozen=True)
class Stone:
    """One stone.

    Attributes:
        shape: its outline around (0, 0) for a diameter of 1 mm, shape (n, 2).
        centre: its place in the patient's frame, shape (2,), in mm.
        diameter_mm: its mean diameter.
        hu: its density.
    """

    shape: Points
    centre: Points
    diameter_mm: float
    hu: float

    def outline(self, scale: float = 1.0) -> Points:
        """Return the outline in the patient's frame, shape (n, 2), in mm; scaling ends at `MAX_SCALED_DIAMETER_MM`."""
        largest = max(self.diameter_mm, MAX_SCALED_DIAMETER_MM)
        return np.asarray(self.shape * min(self.diameter_mm * scale, largest) + self.centre)


@dataclass(frozen=True)
class Visibility:
    """How visible a stone is in the noise-free picture of 224 x 224 pixels.

    Attributes:
        contrast_grey: grey levels above its surroundings.
        width_px: full width at half maximum.
    """

    contrast_grey: float
    width_px: float


def sample_stone(rng: np.random.Generator, centre: Points, *, small: bool = False) -> Stone:
    """Draw a stone of 2.5-15 mm, more often small than large: rough, oblong and, if large, sometimes branched.

    With `small` it has 2-8 mm.
    """
    least, ratio = (2.0, 4.0) if small else (2.5, 6.0)
    diameter = float(np.exp(np.log(least) + np.log(ratio) * rng.beta(1.0, 1.35)))
    theta = np.linspace(0, 2 * np.pi, 18, endpoint=False)
    radius = 1 + rng.normal(0, 0.1, 18)
    if diameter > 9 and rng.random() < 0.5:
        radius += 0.4 * np.cos(int(rng.integers(3, 6)) * theta + rng.uniform(0, 6))
    aspect = rng.uniform(0.55, 1.0)
    shape = np.stack([radius * np.cos(theta), aspect * radius * np.sin(theta)], axis=1) / (1 + aspect)
    hu = float(np.exp(rng.uniform(np.log(250), np.log(1500))))
    return Stone(place(shape, (0.0, 0.0), rng.uniform(0, np.pi)), centre, diameter, hu)


def coverage(pose: Pose, outline_mm: Points, shape: tuple[int, int], psf_px: float) -> Float32Array:
    """Return how much of each pixel a stone covers after the point-spread function, in [0, 1], shape (H, W)."""
    cover = np.zeros(shape, dtype=np.float32)
    points = pose.project(outline_mm)
    pad = int(np.ceil(4 * psf_px)) + 2
    left, top = np.maximum(np.floor(points.min(axis=0)).astype(int) - pad, 0)
    right, bottom = np.minimum(np.ceil(points.max(axis=0)).astype(int) + pad, (shape[1], shape[0]))
    if right <= left or bottom <= top:
        return cover
    fine: UInt8Array = np.zeros(((bottom - top) * 4, (right - left) * 4), dtype=np.uint8)
    vertices = np.round((points - [left, top] + 0.5) * 64 - 8).astype(np.int32)
    cv2.fillPoly(fine, [vertices], (255,), lineType=cv2.LINE_8, shift=4)
    small = cv2.resize(fine, (int(right - left), int(bottom - top)), interpolation=cv2.INTER_AREA)
    cover[top:bottom, left:right] = cv2.GaussianBlur(small.astype(np.float32) / 255, (0, 0), psf_px)
    return cover


def blend(hu: Float32Array, cover: Float32Array, stone_hu: float) -> Float32Array:
    """Blend a stone's density into a slice, in HU, by its coverage, both of shape (H, W)."""
    return np.asarray(hu + cover * np.maximum(stone_hu - hu, 0), dtype=np.float32)


def visibility(before_grey: Float32Array, after_grey: Float32Array) -> Visibility:
    """Measure a stone's visibility from the grey pictures of 224 x 224 pixels without and with it, float32."""
    gain = after_grey - before_grey
    y, x = np.unravel_index(int(np.argmax(gain)), gain.shape)
    peak = float(gain[y, x])
    if peak < 1.0:
        return Visibility(0.0, 0.0)
    width = 2 * np.sqrt(np.count_nonzero(gain >= peak / 2) / np.pi)
    reach = int(width) + 3
    near = (slice(max(y - reach, 0), y + reach + 1), slice(max(x - reach, 0), x + reach + 1))
    around = before_grey[near][gain[near] < 0.1 * peak]
    surroundings = float(np.percentile(around, 80)) if around.size else float(before_grey[y, x])
    return Visibility(min(peak, float(after_grey[y, x]) - surroundings), float(width))


def make_visible(stone: Stone, base_hu: Float32Array, pose: Pose, scanner: Scanner) -> tuple[Stone, Visibility] | None:
    """Enlarge or harden a stone until it is visible in the picture that a model gets.

    Args:
        stone: the stone as drawn.
        base_hu: the blurred, noise-free slice, shape (H, W).
        pose: its geometry.
        scanner: its window, blur and noise.

    Returns:
        The changed stone and its visibility, or None if no stone would be visible there (next to bone, for example).
    """
    window, size = scanner.window, (VISIBLE_AT_PX, VISIBLE_AT_PX)
    before = cv2.resize(window.apply(base_hu), size, interpolation=cv2.INTER_LINEAR)
    min_contrast = max(MIN_CONTRAST_GREY, MIN_CONTRAST_TO_NOISE * scanner.noise_hu * window.grey_per_hu)
    for _ in range(9):
        cover = coverage(pose, stone.outline(), (base_hu.shape[0], base_hu.shape[1]), scanner.psf_px)
        after = window.apply(blend(base_hu, cover, stone.hu))
        measured = visibility(np.asarray(before, np.float32), cv2.resize(after, size).astype(np.float32, copy=False))
        if measured.contrast_grey >= min_contrast and measured.width_px >= MIN_WIDTH_PX:
            return stone, measured
        hu = stone.hu if measured.contrast_grey >= min_contrast else min(stone.hu * 1.35, 1500.0)
        growth = 1.22 if measured.width_px < MIN_WIDTH_PX or stone.hu > 900 else 1.06
        stone = Stone(stone.shape, stone.centre, min(stone.diameter_mm * growth, 15.0), hu)
    return None
