"""Confounders: bright objects that are no kidney stones, outside the kidneys or as thin arcs of a vessel's wall."""

from typing import Literal

import numpy as np

from training.kidney_stone.anatomy import Body, is_clear_of
from training.kidney_stone.canvas import Canvas, Points, blob, ellipse
from training.kidney_stone.kidney import Kidney

Confounder = Literal["none", "vascular", "pelvis_contrast", "bowel", "gallstone", "phlebolith", "granuloma", "clip"]
KINDS: tuple[Confounder, ...] = ("none", "vascular", "bowel", "gallstone", "phlebolith", "granuloma", "clip")
WEIGHTS = (0.3, 0.26, 0.14, 0.1, 0.08, 0.08, 0.04)
"""The kinds of confounders that are drawn at random, and the probability of each.

`pelvis_contrast`, contrast medium in the renal pelvis, follows from the contrast phase instead.
"""

_SCATTERED: dict[Confounder, tuple[int, tuple[float, float], tuple[float, float]]] = {
    "bowel": (5, (2.5, 14), (200, 900)),
    "phlebolith": (4, (2, 5), (250, 900)),
    "granuloma": (6, (2, 8), (200, 1000)),
}
"""Confounders that are scattered: the exclusive upper limit of their number, their sizes in mm, and their densities."""


def draw_confounder(
    canvas: Canvas, rng: np.random.Generator, body: Body, kind: Confounder, kidneys: list[Kidney], axis: Points
) -> None:
    """Paint one kind of confounder.

    Args:
        canvas: what to paint on, after the organs and before perirenal fat and kidneys.
        rng: the scene's random stream.
        body: the patient's trunk.
        kind: which confounder; `none` and `pelvis_contrast` paint nothing here.
        kidneys: the kidneys to keep clear of.
        axis: outline of the aorta or, in a coronal slice, a line along it; shape (n, 2) in mm.
    """
    if kind == "vascular":
        _draw_vascular(canvas, rng, kidneys, axis)
    elif kind == "gallstone":
        _draw_gallstones(canvas, rng, body, kidneys)
    elif kind in _SCATTERED:
        end, size_mm, hu = _SCATTERED[kind]
        _scatter(canvas, rng, body, kidneys, count=int(rng.integers(1, end)), size_mm=size_mm, hu=hu)
    elif kind == "clip":
        for _ in range(int(rng.integers(1, 5))):
            point = _clear_point(rng, body, kidneys)
            canvas.stroke(np.stack([point, point + rng.normal(0, 4, 2)]), 2500.0, 1.5)


def _clear_point(rng: np.random.Generator, body: Body, kidneys: list[Kidney]) -> Points:
    for _ in range(20):
        point = rng.uniform(-0.8, 0.8, 2) * [body.cavity_width, body.cavity_depth]
        if is_clear_of(kidneys, point, 12.0):
            return np.asarray(point)
    return np.array([0.0, -0.7 * body.cavity_depth])


def _scatter(
    canvas: Canvas,
    rng: np.random.Generator,
    body: Body,
    kidneys: list[Kidney],
    *,
    count: int,
    size_mm: tuple[float, float],
    hu: tuple[float, float],
) -> None:
    for _ in range(count):
        point = _clear_point(rng, body, kidneys)
        size = float(np.exp(rng.uniform(*np.log(size_mm)))) / 2
        shape = blob(rng, (point[0], point[1]), size, size * rng.uniform(0.6, 1.0), rng.uniform(0, 3), rough=0.1)
        canvas.fill(shape, rng.uniform(*hu))


def _draw_vascular(canvas: Canvas, rng: np.random.Generator, kidneys: list[Kidney], axis: Points) -> None:
    """Arcs and dots in the aorta's wall, tram lines of the splenic artery, short flecks of the renal artery."""
    for _ in range(int(rng.integers(1, 6))):
        start = int(rng.integers(0, len(axis)))
        arc = np.roll(axis, -start, axis=0)[: int(rng.integers(1, 9)) + 1]
        canvas.stroke(arc, rng.uniform(250, 1100), rng.uniform(1.0, 2.2))
    if kidneys and rng.random() < 0.5:
        kidney = kidneys[int(rng.integers(0, len(kidneys)))]
        hilum = kidney.at(1.0, 0.0)
        inward = axis.mean(axis=0) - hilum
        for _ in range(int(rng.integers(1, 3))):
            point = hilum + inward * rng.uniform(0.3, 0.6) + rng.normal(0, 1.5, 2)
            step = inward / (np.hypot(*inward) + 1e-6) * rng.uniform(3, 8)
            canvas.stroke(np.stack([point, point + step]), rng.uniform(250, 900), 1.2)
    if rng.random() < 0.3:
        path = np.stack([np.linspace(25, 90, 14), -30 + 7 * np.sin(np.linspace(0, rng.uniform(4, 12), 14))], axis=1)
        for start in range(0, 12, 3):
            if rng.random() < 0.5 and is_clear_of(kidneys, path[start], 6.0):
                canvas.stroke(path[start : start + 3], rng.uniform(250, 800), 1.2)


def _draw_gallstones(canvas: Canvas, rng: np.random.Generator, body: Body, kidneys: list[Kidney]) -> None:
    point = np.array([-body.cavity_width * rng.uniform(0.3, 0.5), -body.cavity_depth * rng.uniform(0.25, 0.5)])
    if not is_clear_of(kidneys, point, 8.0):
        point = np.array([-body.cavity_width * 0.5, -body.cavity_depth * 0.75])
    radius = rng.uniform(13, 22)
    canvas.fill(blob(rng, (point[0], point[1]), radius, radius * 1.2, rough=0.05), rng.uniform(0, 20))
    for _ in range(int(rng.integers(1, 6))):
        size = float(np.exp(rng.uniform(np.log(1.5), np.log(8))))
        stone = point + rng.uniform(-0.5, 0.5, 2) * radius + [0.0, 0.3 * radius]
        canvas.fill(ellipse((stone[0], stone[1]), size, size * rng.uniform(0.8, 1)), rng.uniform(100, 700))
        if rng.random() < 0.4:
            canvas.fill(ellipse((stone[0], stone[1]), size * 0.6, size * 0.6), rng.uniform(20, 120))
