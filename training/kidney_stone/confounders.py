"""Bright things that are no kidney stones: they lie outside the kidneys, or are thin arcs of a vessel's wall."""

from typing import Literal

import numpy as np

from training.kidney_stone.anatomy import Body, keep_clear
from training.kidney_stone.canvas import Canvas, Points, blob, ellipse
from training.kidney_stone.kidney import Kidney

Confounder = Literal["none", "vascular", "pelvis_contrast", "bowel", "gallstone", "phlebolith", "granuloma", "clip"]
KINDS: tuple[Confounder, ...] = ("none", "vascular", "bowel", "gallstone", "phlebolith", "granuloma", "clip")
WEIGHTS = (0.3, 0.26, 0.14, 0.1, 0.08, 0.08, 0.04)


def draw_confounder(
    canvas: Canvas, rng: np.random.Generator, body: Body, kind: Confounder, kidneys: list[Kidney], axis: Points
) -> None:
    """Paint one kind of confounder.

    Args:
        canvas: where to paint; after organs, before perirenal fat and kidneys.
        rng: the confounder's own stream.
        body: the patient.
        kind: which one; `none` and `pelvis_contrast` paint nothing here.
        kidneys: what to stay clear of.
        axis: outline of the aorta, shape (n, 2) in mm, or of the midline in a coronal slice.
    """
    if kind == "vascular":
        _draw_vascular(canvas, rng, kidneys, axis)
    elif kind == "bowel":
        _scatter(canvas, rng, body, kidneys, count=int(rng.integers(1, 5)), size_mm=(2.5, 14), hu=(200, 900))
    elif kind == "gallstone":
        _draw_gallstones(canvas, rng, body, kidneys)
    elif kind == "phlebolith":
        _scatter(canvas, rng, body, kidneys, count=int(rng.integers(1, 4)), size_mm=(2, 5), hu=(250, 900))
    elif kind == "granuloma":
        _scatter(canvas, rng, body, kidneys, count=int(rng.integers(1, 6)), size_mm=(2, 8), hu=(200, 1000))
    elif kind == "clip":
        for _ in range(int(rng.integers(1, 5))):
            at = _spot(rng, body, kidneys)
            canvas.stroke(np.stack([at, at + rng.normal(0, 4, 2)]), 2500.0, 1.5)


def _spot(rng: np.random.Generator, body: Body, kidneys: list[Kidney]) -> Points:
    for _ in range(20):
        at = rng.uniform(-0.8, 0.8, 2) * [body.cavity_width, body.cavity_depth]
        if keep_clear(kidneys, at, 12.0):
            return np.asarray(at)
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
        at = _spot(rng, body, kidneys)
        size = float(np.exp(rng.uniform(*np.log(size_mm)))) / 2
        shape = blob(rng, (at[0], at[1]), size, size * rng.uniform(0.6, 1.0), rng.uniform(0, 3), rough=0.1)
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
            at = hilum + inward * rng.uniform(0.3, 0.6) + rng.normal(0, 1.5, 2)
            step = inward / (np.hypot(*inward) + 1e-6) * rng.uniform(3, 8)
            canvas.stroke(np.stack([at, at + step]), rng.uniform(250, 900), 1.2)
    if rng.random() < 0.3:
        path = np.stack([np.linspace(25, 90, 14), -30 + 7 * np.sin(np.linspace(0, rng.uniform(4, 12), 14))], axis=1)
        for start in range(0, 12, 3):
            if rng.random() < 0.5 and keep_clear(kidneys, path[start], 6.0):
                canvas.stroke(path[start : start + 3], rng.uniform(250, 800), 1.2)


def _draw_gallstones(canvas: Canvas, rng: np.random.Generator, body: Body, kidneys: list[Kidney]) -> None:
    at = np.array([-body.cavity_width * rng.uniform(0.3, 0.5), -body.cavity_depth * rng.uniform(0.25, 0.5)])
    if not keep_clear(kidneys, at, 8.0):
        at = np.array([-body.cavity_width * 0.5, -body.cavity_depth * 0.75])
    radius = rng.uniform(13, 22)
    canvas.fill(blob(rng, (at[0], at[1]), radius, radius * 1.2, rough=0.05), rng.uniform(0, 20))
    for _ in range(int(rng.integers(1, 6))):
        size = float(np.exp(rng.uniform(np.log(1.5), np.log(8))))
        stone = at + rng.uniform(-0.5, 0.5, 2) * radius + [0.0, 0.3 * radius]
        canvas.fill(ellipse((stone[0], stone[1]), size, size * rng.uniform(0.8, 1)), rng.uniform(100, 700))
        if rng.random() < 0.4:
            canvas.fill(ellipse((stone[0], stone[1]), size * 0.6, size * 0.6), rng.uniform(20, 120))
