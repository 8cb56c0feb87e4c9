"""Random changes to real slices, so that neither scanner, field of view nor the distributor's export gives a kind away.

All pictures here are grey, uint8, and of one square size. The public collection equalised them (CLAHE, clip limit 4)
and shrank them to 224 pixels; users' pictures come as a viewer exports them, and closer in.
"""

import cv2
import numpy as np

from training.kidney_stone.canvas import UInt8Array
from training.kidney_stone.slices import View

CLOSE = 0.25
"""Share of pictures that are enlarged around the kidneys, by up to 1.9."""
SMOOTHED = 0.3
"""Share of pictures whose grain, which the equalisation amplified, is smoothed away, and whose contrast is lowered."""


def augment(grey: UInt8Array, view: View, rng: np.random.Generator) -> UInt8Array:
    """Move, enlarge, mirror, re-window, blur and degrade a picture, shape (H, W), uint8, in and out.

    Args:
        grey: the picture.
        view: its plane.
        rng: the random stream.
    """
    picture = _move(grey, view, rng)
    if rng.random() < SMOOTHED:
        picture = _flatten(picture, rng)
    picture = _rewindow(picture, rng)
    return _degrade(picture, rng)


def _move(grey: UInt8Array, view: View, rng: np.random.Generator) -> UInt8Array:
    """Enlarge, stretch, rotate, shift and mirror; kidneys lie in the upper half of a coronal picture."""
    height, width = grey.shape
    close = rng.random() < CLOSE
    scale = rng.uniform(1.3, 1.9) if close else float(np.exp(rng.uniform(np.log(0.75), np.log(1.5))))
    stretch = float(np.exp(rng.normal(0, 0.08)))
    angle = float(np.radians(rng.normal(0, 8)))
    mirror = -1.0 if rng.random() < 0.5 else 1.0
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.diag([mirror * scale * stretch, scale / stretch])
    focus = np.array([0.5, 0.36 if view == "coronal" and close else 0.5]) * [width, height]
    focus = focus + rng.normal(0, 0.035, 2) * [width, height]
    offset = np.array([width / 2, height / 2]) - linear @ focus
    matrix = np.column_stack([linear, offset])
    kernel = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
    moved = cv2.warpAffine(grey, matrix, (width, height), flags=kernel, borderMode=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(moved, np.uint8)


def _flatten(picture: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Smooth the grain and compress the soft tissues' contrast, about the opposite of the equalisation."""
    if rng.random() < 0.5:
        smooth = cv2.bilateralFilter(picture, 5, float(rng.uniform(25, 60)), 2.0)
    else:
        smooth = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.5, 1.0)))
    unit = smooth.astype(np.float32) / 255
    wide = cv2.GaussianBlur(unit, (0, 0), float(rng.uniform(8, 20)))
    unit = unit + (wide - unit) * np.float32(rng.uniform(0, 0.3))
    bright = np.float32(rng.uniform(1.0, 2.2))
    unit = np.clip(unit, 0, 1) ** bright  # a wide window: only bone and stones stay bright
    return np.asarray(np.rint(unit * 255), np.uint8)


def _rewindow(picture: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Change gamma, brightness and contrast, as another window and another export would."""
    unit = picture.astype(np.float32) / 255
    if rng.random() < 0.6:
        unit = unit ** np.float32(np.exp(rng.normal(0, 0.2)))
    black, white = (rng.uniform(0, 0.1), rng.uniform(0.85, 1.0)) if rng.random() < 0.25 else (0.0, 1.0)
    gain = np.float32(np.exp(rng.normal(0, 0.08)))
    unit = np.clip(black + (white - black) * unit * gain, 0, 1)
    return np.asarray(np.rint(unit * 255), np.uint8)


def _degrade(picture: UInt8Array, rng: np.random.Generator) -> UInt8Array:
    """Blur, add noise and compress as JPEG, each in some of the pictures."""
    if rng.random() < 0.25:
        picture = np.asarray(cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.4, 0.9))), np.uint8)
    if rng.random() < 0.35:
        grain = rng.standard_normal(picture.shape, dtype=np.float32) * np.float32(rng.uniform(1, 9))
        if rng.random() < 0.5:
            grain = cv2.GaussianBlur(grain, (0, 0), 0.8) * np.float32(1.8)
        picture = np.clip(picture + grain, 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        _, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(40, 96))])
        picture = np.asarray(cv2.imdecode(data, cv2.IMREAD_GRAYSCALE), np.uint8)
    return picture
