"""The drawing surface of the phantoms: densities in HU on a pixel grid, addressed in millimetres."""

from dataclasses import dataclass
from typing import TypeAlias

import cv2
import numpy as np
import numpy.typing as npt

Float32Array: TypeAlias = npt.NDArray[np.float32]
Points: TypeAlias = npt.NDArray[np.float64]
"""Points, shape (n, 2), or one point, shape (2,); x and y, in mm unless a name says otherwise."""
UInt8Array: TypeAlias = npt.NDArray[np.uint8]

_SHIFT = 4  # fractional bits of the vertices that OpenCV gets


@dataclass(frozen=True)
class Pose:
    """How the patient lies on the pixel grid.

    Attributes:
        matrix: maps millimetres to pixels (rotation, mirroring, zoom, shift); shape (2, 3).
        waves: a smooth warp as k sine waves, shape (k, 5): amplitude in x and y [mm], wave vector in x and y [rad/mm],
            phase [rad].
        px_per_mm: geometric mean of the scale.
    """

    matrix: Points
    waves: Points
    px_per_mm: float

    def project(self, points_mm: Points, *, rigid: bool = False) -> Points:
        """Map points, shape (n, 2), from millimetres to pixels; `rigid` omits the warp (a table does not bend)."""
        points = points_mm
        if not rigid:
            phase = points_mm @ self.waves[:, 2:4].T + self.waves[:, 4]
            points = points_mm + np.sin(phase) @ self.waves[:, :2]
        return np.asarray(points @ self.matrix[:, :2].T + self.matrix[:, 2])


class Canvas:
    """A slice that is being drawn.

    Attributes:
        hu: densities in HU, shape (H, W), float32; the canvas begins as air.
        pose: how the patient lies on it.
    """

    def __init__(self, height_px: int, width_px: int, pose: Pose) -> None:
        self.hu: Float32Array = np.full((height_px, width_px), -1000.0, dtype=np.float32)
        self.pose = pose

    def fill(self, points_mm: Points, hu: float, *, rigid: bool = False) -> None:
        """Fill a polygon, shape (n, 2) in mm, with one density; it covers what was painted before."""
        vertices = np.round(self.pose.project(points_mm, rigid=rigid) * (1 << _SHIFT)).astype(np.int32)
        cv2.fillPoly(self.hu, [vertices], (float(hu),), lineType=cv2.LINE_8, shift=_SHIFT)

    def stroke(self, points_mm: Points, hu: float, width_mm: float) -> None:
        """Draw a line of constant width through points, shape (n, 2) in mm."""
        vertices = np.round(self.pose.project(points_mm) * (1 << _SHIFT)).astype(np.int32)
        width_px = max(1, round(width_mm * self.pose.px_per_mm))
        cv2.polylines(self.hu, [vertices], False, (float(hu),), width_px, cv2.LINE_8, _SHIFT)

    def inside(self, point_mm: Points, margin_px: float) -> bool:
        """Return whether a point, shape (2,) in mm, lies on the grid, at least a margin from its edge."""
        x, y = self.pose.project(point_mm[None])[0]
        height, width = self.hu.shape
        return bool(margin_px <= x < width - margin_px and margin_px <= y < height - margin_px)


def ellipse(centre: tuple[float, float], rx: float, ry: float, angle: float = 0.0, *, power: float = 2.0) -> Points:
    """Return an ellipse or superellipse as a polygon.

    Args:
        centre: x and y in mm.
        rx: first half-axis in mm.
        ry: second half-axis in mm.
        angle: direction of the first half-axis, in radians.
        power: exponent; 2 is an ellipse, 4 is nearly a rectangle.

    Returns:
        Shape (n, 2), in mm.
    """
    theta = np.linspace(0.0, 2 * np.pi, 48, endpoint=False)
    cos, sin = np.cos(theta), np.sin(theta)
    x = rx * np.sign(cos) * np.abs(cos) ** (2 / power)
    y = ry * np.sign(sin) * np.abs(sin) ** (2 / power)
    return place(np.stack([x, y], axis=1), centre, angle)


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    rx: float,
    ry: float,
    angle: float = 0.0,
    *,
    rough: float = 0.08,
) -> Points:
    """Draw the outline of an organ: an ellipse whose radius varies by about the fraction `rough`.

    Args:
        rng: the random stream.
        centre: x and y in mm.
        rx: first half-axis in mm.
        ry: second half-axis in mm.
        angle: direction of the first half-axis, in radians.
        rough: standard deviation of the radius, as a fraction.

    Returns:
        Shape (n, 2), in mm.
    """
    theta = np.linspace(0.0, 2 * np.pi, 40, endpoint=False)
    orders = np.arange(2, 7)
    amplitude = rng.normal(0.0, rough, orders.size) / np.sqrt(orders - 1)
    phase = rng.uniform(0.0, 2 * np.pi, orders.size)
    radius = np.clip(1.0 + np.cos(theta[:, None] * orders + phase) @ amplitude, 0.35, 1.8)
    points = np.stack([rx * radius * np.cos(theta), ry * radius * np.sin(theta)], axis=1)
    return place(points, centre, angle)


def place(points: Points, centre: tuple[float, float], angle: float) -> Points:
    """Rotate points by `angle` radians around the origin, then move the origin to `centre`."""
    cos, sin = np.cos(angle), np.sin(angle)
    return np.asarray(points @ np.array([[cos, sin], [-sin, cos]]) + np.array(centre))
