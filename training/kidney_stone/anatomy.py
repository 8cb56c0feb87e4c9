"""Axial slices: body wall, skeleton, organs, bowel and great vessels, painted from back to front."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.kidney_stone.canvas import Canvas, Points, blob, ellipse
from training.kidney_stone.kidney import Kidney, Phase

Level = Literal["lungs", "kidneys", "pelvis"]
"""Height of an axial slice: above the kidneys, through them or below them."""


@dataclass(frozen=True)
class Body:
    """A patient's trunk.

    Attributes:
        half_width: half of the width at the skin, in mm.
        half_depth: half of the depth at the skin, in mm.
        cavity_width: half of the width of the abdominal cavity, in mm.
        cavity_depth: half of the depth of the abdominal cavity, in mm.
        bone_hu: density of cortical bone.
        phase: contrast phase.
    """

    half_width: float
    half_depth: float
    cavity_width: float
    cavity_depth: float
    bone_hu: float
    phase: Phase

    @property
    def vessel_hu(self) -> float:
        """Density of blood in the large vessels, which contrast medium raises."""
        return {"plain": 42.0, "nephrographic": 165.0, "excretory": 115.0}[self.phase]

    def organ_hu(self, plain: float) -> float:
        """Return a solid organ's density in this contrast phase, from its density without contrast medium."""
        return plain + {"plain": 0.0, "nephrographic": 60.0, "excretory": 42.0}[self.phase]


def sample_body(rng: np.random.Generator, phase: Phase, *, coronal: bool) -> Body:
    """Draw a patient's trunk, from thin to heavy."""
    half_width = float(np.clip(rng.normal(172, 24), 120, 225))
    half_depth = half_width * rng.uniform(0.58, 0.76)
    fat = float(np.clip(rng.gamma(2.2, 9.0), 4, 60)) * (0.7 if coronal else 1.0)
    wall = rng.uniform(7, 16)
    rim = min(fat + wall, 0.36 * half_depth)
    bone = rng.uniform(350, 1000)
    return Body(half_width, half_depth, half_width - rim, half_depth - 0.8 * rim, bone, phase)


def draw_table(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint the table under the patient, as two thin arcs, in three of four slices."""
    if rng.random() < 0.25:
        return
    x = np.linspace(-230, 230, 40)
    bend = rng.uniform(-30, 60) * (1 - (x / 230) ** 2)
    top = body.half_depth + rng.uniform(1, 14)
    for gap in (0.0, rng.uniform(10, 35)):
        arc = np.stack([x, top + gap + bend - bend.max()], axis=1)
        arc = np.concatenate([arc, arc[::-1] + np.array([0.0, rng.uniform(1.2, 3.5)])])
        canvas.fill(arc, rng.uniform(-500, 150), rigid=True)


def draw_trunk(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint skin, subcutaneous fat, muscle wall and the fat inside, and in some slices the arms."""
    power = rng.uniform(2.0, 2.7)
    if rng.random() < 0.15:
        for side in (-1, 1):
            arm = (side * (body.half_width + rng.uniform(34, 60)), rng.uniform(-40, 40))
            canvas.fill(blob(rng, arm, rng.uniform(28, 42), rng.uniform(28, 42), rough=0.04), 0.0)
            canvas.fill(blob(rng, arm, 24, 24, rough=0.05), 55.0)
            canvas.fill(ellipse(arm, 9, 9), body.bone_hu)
    canvas.fill(ellipse((0, 0), body.half_width, body.half_depth, power=power), rng.uniform(-20, 40))
    canvas.fill(ellipse((0, 0), body.half_width - 2, body.half_depth - 2, power=power), rng.uniform(-115, -95))
    wall = rng.uniform(7, 16)
    outer = ellipse((0, 0), body.cavity_width + wall, body.cavity_depth + wall, power=power)
    canvas.fill(outer, body.organ_hu(45) - 15)
    canvas.fill(ellipse((0, 0), body.cavity_width, body.cavity_depth, power=power), rng.uniform(-115, -90))


def draw_ribs(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint ribs as short bright arcs with marrow inside, along the wall."""
    for side in (-1, 1):
        for theta in np.arange(-0.6, 1.35, 0.38) + rng.uniform(-0.15, 0.15):
            if rng.random() < 0.45:
                continue
            x = side * (body.cavity_width + 5) * np.cos(theta)
            y = (body.cavity_depth + 5) * np.sin(theta)
            direction = np.arctan2(body.cavity_depth * np.cos(theta), -side * body.cavity_width * np.sin(theta))
            length, width = rng.uniform(6, 22), rng.uniform(3.0, 5.5)
            canvas.fill(ellipse((x, y), length, width, direction), body.bone_hu)
            canvas.fill(ellipse((x, y), length * 0.8, width * 0.5, direction), rng.uniform(80, 250))


def draw_spine(canvas: Canvas, rng: np.random.Generator, body: Body) -> tuple[float, float]:
    """Paint a vertebra with canal and arch, and the muscles beside it; return its body's y and half-width in mm."""
    rx, ry = rng.uniform(19, 27), rng.uniform(14, 19)
    y = body.cavity_depth * rng.uniform(0.42, 0.56)
    muscle = body.organ_hu(48) - 15
    for side in (-1, 1):
        back = body.cavity_depth + 4 - y
        canvas.fill(blob(rng, (side * 33, y + 0.72 * back), 27, max(16.0, 0.42 * back), rough=0.05), muscle)
        canvas.fill(blob(rng, (side * (rx + 12), y), rng.uniform(9, 21), rng.uniform(11, 24), rough=0.06), muscle)
        if rng.random() < 0.75:
            tip = np.array([side * rng.uniform(32, 46), y + ry + rng.uniform(2, 14)])
            canvas.stroke(np.stack([np.array([side * 12.0, y + ry + 5]), tip]), body.bone_hu * 0.8, rng.uniform(4, 8))
    canvas.fill(ellipse((0, y + ry + 11), 17, 15), body.bone_hu * 0.75)
    canvas.fill(ellipse((0, y + ry + 9), rng.uniform(9, 12), rng.uniform(8, 10)), rng.uniform(10, 40))
    spinous = np.array([[-4.0, y + ry + 24], [4.0, y + ry + 24], [3.0, y + ry + 42], [-3.0, y + ry + 42]])
    canvas.fill(spinous, body.bone_hu * 0.8)
    shape = blob(rng, (0, y), rx, ry, rough=0.03)
    canvas.fill(shape, body.bone_hu)
    marrow = rng.uniform(50, 120) if rng.random() < 0.2 else rng.uniform(130, 280)
    rim = rng.uniform(1.2, 2.6)
    canvas.fill((shape - [0, y]) * [1 - rim / rx, 1 - rim / ry] + [0, y], marrow)
    return y, rx


def draw_great_vessels(canvas: Canvas, rng: np.random.Generator, body: Body, spine_y: float) -> Points:
    """Paint aorta and vena cava in front of the spine; return the aorta's outline, shape (n, 2) in mm."""
    y = spine_y - rng.uniform(24, 32)
    radius = rng.uniform(8, 13) if rng.random() < 0.93 else rng.uniform(16, 26)
    cava = (-rng.uniform(14, 24), y + rng.uniform(-4, 6))
    canvas.fill(blob(rng, cava, rng.uniform(8, 15), rng.uniform(5, 11), rough=0.06), body.vessel_hu * 0.95)
    aorta = blob(rng, (rng.uniform(4, 14), y), radius, radius, rough=0.03)
    canvas.fill(aorta, body.vessel_hu)
    return aorta


def draw_upper_organs(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint liver, spleen, stomach, pancreas and gallbladder; each is missing in some slices."""
    rx, ry = body.cavity_width, body.cavity_depth
    if rng.random() < 0.72:
        reach = rng.uniform(0.25, 0.55)
        liver = body.organ_hu(float(np.clip(rng.normal(55, 12), 5, 75)))
        centre = (-rx * (1 - reach), -ry * rng.uniform(0.0, 0.3))
        canvas.fill(blob(rng, centre, rx * reach * 0.95, ry * rng.uniform(0.5, 0.72), rough=0.09), liver)
        for _ in range(int(rng.integers(0, 6))):
            spot = (centre[0] + rx * reach * rng.uniform(-0.6, 0.6), centre[1] + ry * rng.uniform(-0.4, 0.4))
            vein = liver + (rng.uniform(15, 50) if body.phase != "plain" else rng.uniform(-25, -5))
            canvas.fill(blob(rng, spot, rng.uniform(2, 5), rng.uniform(2, 11), rng.uniform(0, 3)), vein)
        if rng.random() < 0.4:
            bladder = (centre[0] + rx * reach * 0.75, centre[1] - ry * 0.2)
            canvas.fill(blob(rng, bladder, rng.uniform(10, 18), rng.uniform(12, 26), 0.3), rng.uniform(0, 22))
    if rng.random() < 0.6:
        centre = (rx * rng.uniform(0.72, 0.82), ry * rng.uniform(0.0, 0.25))
        shape = blob(rng, centre, rx * rng.uniform(0.12, 0.24), ry * rng.uniform(0.22, 0.42), 0.2, rough=0.08)
        canvas.fill(shape, body.organ_hu(rng.uniform(42, 55)))
    if rng.random() < 0.5:
        draw_bowel_loop(canvas, rng, body, (rx * 0.4, -ry * rng.uniform(0.35, 0.55)), rng.uniform(28, 55))
    if rng.random() < 0.5:
        path = np.array([[-0.25, -0.05], [0.0, -0.15], [0.25, -0.1], [0.45, 0.05]]) * [rx, ry]
        canvas.stroke(path + rng.normal(0, 5, (4, 2)), body.organ_hu(35), rng.uniform(12, 24))


def draw_bowel_loop(
    canvas: Canvas, rng: np.random.Generator, body: Body, centre: tuple[float, float], radius: float
) -> None:
    """Paint one loop of bowel: its wall, and in it fluid, gas above a level, or stool."""
    shape = blob(rng, centre, radius, radius * rng.uniform(0.6, 1.1), rng.uniform(0, 3), rough=0.1)
    canvas.fill(shape, body.organ_hu(35))
    middle = np.array(centre)
    inner = (shape - middle) * max(0.5, 1 - 2.5 / radius) + middle
    kind = rng.random()
    if kind < 0.4:
        canvas.fill(inner, rng.uniform(5, 40))
    elif kind < 0.75:
        canvas.fill(inner, rng.uniform(-10, 50))
        level = centre[1] + radius * rng.uniform(-0.4, 0.7)
        gas = np.stack([inner[:, 0], np.minimum(inner[:, 1], level)], axis=1)
        canvas.fill(gas, rng.uniform(-980, -700))
    else:
        canvas.fill(inner, rng.uniform(-60, 60))
        for _ in range(int(rng.integers(3, 10))):
            spot = middle + rng.uniform(-0.6, 0.6, 2) * radius
            canvas.fill(ellipse((spot[0], spot[1]), rng.uniform(1, 4), rng.uniform(1, 4)), rng.uniform(-700, 90))


def draw_bowel(canvas: Canvas, rng: np.random.Generator, body: Body, *, coronal_height: float = 0.0) -> None:
    """Paint loops of bowel and vessels of the mesentery at random places.

    Args:
        canvas: what to paint on.
        rng: the scene's random stream.
        body: the patient's trunk.
        coronal_height: height in mm of the region to fill in a coronal slice; 0.0 in an axial slice.
    """
    rx = body.cavity_width
    low, high = (-0.1, 0.85) if coronal_height else (-0.82, 0.15)
    ry = coronal_height or body.cavity_depth
    for _ in range(int(rng.integers(8, 34))):
        start = rng.uniform([-0.7 * rx, low * ry], [0.7 * rx, high * ry])
        canvas.stroke(
            np.cumsum(np.stack([start, *rng.normal(0, 8, (2, 2))]), axis=0), body.vessel_hu * 0.8, rng.uniform(1, 3.5)
        )
    for _ in range(int(rng.integers(2, 17))):
        centre = rng.uniform([-0.72 * rx, low * ry], [0.72 * rx, high * ry])
        draw_bowel_loop(canvas, rng, body, (centre[0], centre[1]), rng.uniform(8, 24))
    for side in (-1, 1):
        if rng.random() < 0.7:
            centre = np.array([side * rx * rng.uniform(0.7, 0.82), ry * rng.uniform(low + 0.3, high)])
            draw_bowel_loop(canvas, rng, body, (centre[0], centre[1]), rng.uniform(16, 30))


def axial_kidney_centre(rng: np.random.Generator, body: Body, spine: tuple[float, float], side: int) -> Points:
    """Draw a kidney's centre beside the spine, clear of it and of the wall.

    Args:
        rng: the scene's random stream.
        body: the patient's trunk.
        spine: y and half-width of the vertebra, in mm.
        side: -1 at the left of the picture, +1 at its right.

    Returns:
        Shape (2,), in mm.
    """
    y, rx = spine
    x = np.clip(rx + rng.uniform(36, 52), 0, max(body.cavity_width - 24, 62))
    return np.array([side * x, min(y + rng.uniform(-26, 14), body.cavity_depth - 26)])


def draw_lung_bases(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint the lungs with the liver's dome and the heart between them, for slices above the kidneys."""
    rx, ry = body.cavity_width, body.cavity_depth
    for side in (-1, 1):
        centre = (side * rx * 0.52, ry * rng.uniform(0.0, 0.15))
        canvas.fill(blob(rng, centre, rx * 0.47, ry * 0.85, rough=0.04), rng.uniform(-900, -780))
        for _ in range(int(rng.integers(4, 16))):
            spot = np.array(centre) + rng.uniform(-0.6, 0.6, 2) * [rx * 0.45, ry * 0.8]
            size = rng.uniform(1, 3)
            canvas.fill(ellipse((spot[0], spot[1]), size, size * rng.uniform(1, 3), rng.uniform(0, 3)), 20.0)
    liver = body.organ_hu(rng.uniform(45, 65))
    size = rng.uniform(0.15, 0.48)
    canvas.fill(blob(rng, (-rx * 0.5, -ry * 0.05), rx * size, ry * size * 1.4, rough=0.08), liver)
    if rng.random() < 0.7:
        canvas.fill(blob(rng, (rx * 0.12, -ry * 0.45), rx * 0.36, ry * 0.36, 0.4), body.vessel_hu * 0.9)


def draw_pelvis(canvas: Canvas, rng: np.random.Generator, body: Body) -> None:
    """Paint iliac bones, sacrum, gluteal muscles and bladder, for slices below the kidneys."""
    rx, ry = body.cavity_width, body.cavity_depth
    for side in (-1, 1):
        canvas.fill(blob(rng, (side * rx * 0.6, ry * 0.75), rx * 0.32, ry * 0.3, side * -0.6), body.organ_hu(48))
        wing = blob(rng, (side * rx * 0.62, ry * 0.35), rng.uniform(6, 10), ry * rng.uniform(0.3, 0.55), side * -0.5)
        canvas.fill(wing, body.bone_hu)
        middle = wing.mean(axis=0)
        canvas.fill((wing - middle) * [0.6, 0.85] + middle, rng.uniform(120, 300))
        canvas.fill(blob(rng, (side * rx * 0.38, ry * 0.15), 18, 22), body.organ_hu(48))
    canvas.fill(blob(rng, (0, ry * 0.65), rng.uniform(30, 48), rng.uniform(14, 26), rough=0.08), body.bone_hu)
    canvas.fill(blob(rng, (0, ry * 0.65), 30, 14, rough=0.08), rng.uniform(120, 260))
    if rng.random() < 0.5:
        urine = rng.uniform(200, 600) if body.phase == "excretory" else rng.uniform(0, 15)
        canvas.fill(blob(rng, (0, -ry * 0.15), rng.uniform(25, 50), rng.uniform(20, 40)), urine)


def is_clear_of(kidneys: list[Kidney], point: Points, margin_mm: float) -> bool:
    """Return whether a point, shape (2,) in mm, lies outside every kidney by at least a margin."""
    return all(float(np.hypot(*(point - kidney.centre))) > max(kidney.rx, kidney.ry) + margin_mm for kidney in kidneys)
