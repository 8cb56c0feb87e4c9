"""Coronal slices: trunk from the lungs to the iliac bones, spine and organs. y points down the body, in mm."""

import numpy as np

from training.kidney_stone.anatomy import Body, draw_bowel
from training.kidney_stone.canvas import Canvas, Points, blob, ellipse


def draw_coronal_trunk(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint skin, fat, flank muscle and inner fat of a trunk with a waist, longer than the picture, and some arms."""
    y = np.linspace(-330, 330, 40)
    waist = rng.uniform(0, 18) * np.exp(-(((y - rng.uniform(10, 70)) / 70) ** 2))

    def outline(half_width: float) -> Points:
        side = half_width - waist
        return np.concatenate([np.stack([side, y], axis=1), np.stack([-side, y], axis=1)[::-1]])

    if rng.random() < 0.15:
        for side in (-1, 1):
            x = side * (body.half_width + rng.uniform(35, 55))
            canvas.fill(ellipse((x, 0), 34, 400, power=4), 0.0)
            canvas.fill(ellipse((x, 0), 24, 400, power=4), 52.0)
            canvas.fill(ellipse((x, 0), 9, 400, power=4), body.bone_hu)
    canvas.fill(outline(body.half_width), rng.uniform(-20, 40))
    canvas.fill(outline(body.half_width - 2), rng.uniform(-115, -95))
    canvas.fill(outline(body.cavity_width + rng.uniform(6, 15)), body.organ_hu(45) - 15)
    canvas.fill(outline(body.cavity_width), rng.uniform(-115, -90))


def draw_coronal_organs(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint lungs, liver dome, spleen, ribs in cross-section, iliac wings and bowel."""
    rx = body.cavity_width
    dome = rng.uniform(-200, -120)
    for side in (-1, 1):
        canvas.fill(blob(rng, (side * rx * 0.52, dome - 70), rx * 0.46, 100, rough=0.04), rng.uniform(-900, -780))
        canvas.fill(blob(rng, (side * rx * 0.52, dome + 55), rx * 0.5, 75, rough=0.05), rng.uniform(-110, -90))
    if rng.random() < 0.85:
        low = rng.uniform(60, 130)
        liver = body.organ_hu(float(np.clip(rng.normal(55, 12), 5, 75)))
        canvas.fill(blob(rng, (-rx * 0.6, dome + low), rx * rng.uniform(0.3, 0.42), low, 0.15, rough=0.06), liver)
    if rng.random() < 0.75:
        shape = blob(rng, (rx * 0.72, dome + 60), rx * rng.uniform(0.17, 0.28), rng.uniform(35, 65), -0.2)
        canvas.fill(shape, body.organ_hu(48))
    draw_bowel(canvas, rng, body, coronal_height=190.0)
    _draw_coronal_bones(canvas, rng, body)


def _draw_coronal_bones(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    rx = body.cavity_width
    start = rng.uniform(0, 25)
    for side in (-1, 1):
        for y in np.arange(-230 + start, rng.uniform(-60, 30), rng.uniform(24, 32)):
            rib = (side * (rx + 5), float(y))
            canvas.fill(ellipse(rib, rng.uniform(3, 5), rng.uniform(6, 9), side * 0.3), body.bone_hu)
            canvas.fill(ellipse(rib, 1.8, 4.5, side * 0.3), rng.uniform(80, 250))
        if rng.random() < 0.7:
            wing = blob(rng, (side * rx * rng.uniform(0.62, 0.75), 185), rng.uniform(7, 14), 62, side * -0.45)
            middle = wing.mean(axis=0)
            canvas.fill(wing, body.bone_hu)
            canvas.fill((wing - middle) * [0.65, 0.9] + middle, rng.uniform(120, 300))


def draw_coronal_midline(canvas: Canvas, rng: np.random.Generator, body: Body, *, anterior: bool) -> float:
    """Paint the psoas muscles and the spine or, in an anterior plane, aorta and vena cava.

    Returns:
        Half of the spine's width, in mm.
    """
    half = rng.uniform(18, 25)
    muscle = body.organ_hu(48) - 15
    for side in (-1, 1):
        psoas = np.array([[half - 4, -60.0], [half + 6, -50], [half + rng.uniform(20, 38), 130], [half + 8, 170]])
        canvas.fill(np.concatenate([psoas, [[half - 4, 150.0]]]) * [side, 1.0], muscle)
    if anterior:
        for side, width in ((1, rng.uniform(8, 12)), (-1, rng.uniform(8, 13))):
            canvas.fill(ellipse((side * 12, -40), width, 190, power=3), body.vessel_hu)
        return half
    marrow = rng.uniform(130, 280)
    pitch = rng.uniform(32, 40)
    canvas.fill(ellipse((0, 0), half * 0.95, 330, power=6), rng.uniform(50, 100))
    for y in np.arange(-300 + rng.uniform(0, pitch), 300, pitch):
        box = ellipse((0, float(y)), half, pitch * 0.4, power=4)
        canvas.fill(box, body.bone_hu)
        canvas.fill((box - [0, y]) * [0.9, 0.86] + [0, y], marrow)
    return half
