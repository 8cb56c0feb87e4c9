"""Kidneys: outline with hilum, cortex and medulla, sinus fat, collecting system, cysts, and the sites of stones."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from training.kidney_stone.canvas import Canvas, Points, blob, ellipse, place

Phase = Literal["plain", "nephrographic", "excretory"]
PHASES: tuple[Phase, ...] = get_args(Phase)
"""The contrast phases: without contrast medium, with bright cortex, with bright urine."""


@dataclass(frozen=True)
class Kidney:
    """One kidney in the plane of the slice; its own x axis points to the hilum.

    Attributes:
        centre: x and y in the patient's frame, in mm.
        rx: half-width towards the hilum, in mm.
        ry: half-length across it, in mm.
        angle: direction of the hilum, in radians.
        hilum: depth of the notch as a fraction of `rx`; about 0 in slices through a pole.
        hydro: degree of hydronephrosis, from 0 for a collapsed collecting system to 1 for a ballooned one.
    """

    centre: tuple[float, float]
    rx: float
    ry: float
    angle: float
    hilum: float
    hydro: float

    def at(self, x: float, y: float) -> Points:
        """Return a point in the patient's frame, shape (2,), in mm, from fractions of the kidney's half-axes.

        (1, 0) is the hilum and (0, ±1) are the poles.
        """
        point: Points = place(np.array([[x * self.rx, y * self.ry]]), self.centre, self.angle)[0]
        return point


@dataclass(frozen=True)
class Renal:
    """Densities in HU of a kidney's tissues and urine in one contrast phase."""

    cortex: float
    medulla: float
    urine: float


def sample_renal(rng: np.random.Generator, phase: Phase) -> Renal:
    """Draw the densities of cortex, medulla and urine for a phase."""
    if phase == "plain":
        cortex = rng.uniform(24, 46)
        return Renal(cortex, cortex + rng.uniform(-4, 3), rng.uniform(-2, 16))
    if phase == "nephrographic":
        cortex = rng.uniform(120, 210)
        fraction = rng.uniform(0.4, 0.65) if rng.random() < 0.45 else rng.uniform(0.85, 1.0)
        return Renal(cortex, cortex * fraction, rng.uniform(0, 20))
    cortex = rng.uniform(90, 150)
    return Renal(cortex, cortex * rng.uniform(0.95, 1.1), rng.uniform(cortex + 80, 420))


def sample_kidney(rng: np.random.Generator, centre: tuple[float, float], side: int, *, coronal: bool) -> Kidney:
    """Draw the shape of one kidney.

    Args:
        rng: the scene's random stream.
        centre: x and y in mm.
        side: -1 at the left of the picture, +1 at its right; the hilum points to the middle.
        coronal: whether the slice is coronal.
    """
    size = float(np.clip(rng.normal(1.0, 0.14), 0.6, 1.35))
    hydro = float(rng.beta(1.2, 5.0)) if rng.random() < 0.8 else float(rng.uniform(0.4, 1.0))
    medial = 0.0 if side < 0 else np.pi
    if coronal:
        tilt = side * rng.normal(0.2, 0.15)
        return Kidney(
            centre, rng.uniform(21, 28) * size, rng.uniform(44, 60) * size, medial + tilt, rng.uniform(0.1, 0.6), hydro
        )
    tilt = side * rng.normal(0.5, 0.35)
    polar = rng.random() < 0.22
    shrink = rng.uniform(0.55, 0.85) if polar else 1.0
    hilum = rng.uniform(0.0, 0.1) if polar else rng.uniform(0.15, 0.75)
    scale = size * shrink
    return Kidney(centre, rng.uniform(23, 30) * scale, rng.uniform(26, 36) * scale, medial + tilt, hilum, hydro)


def outline(rng: np.random.Generator, kidney: Kidney) -> Points:
    """Draw a kidney's outline: an ellipse with a notch at the hilum and lobulation, as points (n, 2) in mm."""
    theta = np.linspace(0.0, 2 * np.pi, 64, endpoint=False)
    from_hilum = np.angle(np.exp(1j * theta))
    notch = kidney.hilum * np.exp(-((from_hilum / rng.uniform(0.3, 0.55)) ** 2))
    lobes = rng.uniform(0.0, 0.05) * np.cos(rng.integers(5, 10) * theta + rng.uniform(0, 6))
    waviness = rng.normal(0, 0.05) * np.cos(2 * theta + rng.uniform(0, 6)) + rng.normal(0, 0.04) * np.cos(3 * theta)
    radius = 1.0 - notch + lobes + waviness
    points = np.stack([kidney.rx * radius * np.cos(theta), kidney.ry * radius * np.sin(theta)], axis=1)
    return place(points, kidney.centre, kidney.angle)


def draw_perirenal_fat(canvas: Canvas, rng: np.random.Generator, kidney: Kidney) -> None:
    """Paint the fat around a kidney, which also separates its edge from bright objects of other organs."""
    margin = rng.uniform(4, 14)
    canvas.fill(
        blob(rng, kidney.centre, kidney.rx + margin, kidney.ry + margin, kidney.angle, rough=0.03),
        rng.uniform(-112, -92),
    )
    if rng.random() < 0.3:
        fascia = blob(rng, kidney.centre, kidney.rx + margin, kidney.ry + margin, kidney.angle, rough=0.03)
        canvas.stroke(fascia[: rng.integers(12, 30)], rng.uniform(-40, 10), 1.0)
    for _ in range(int(rng.integers(0, 4))):  # bridging septa and small vessels
        start = kidney.at(*rng.uniform(-1.2, 1.2, 2))
        canvas.stroke(np.stack([start, start + rng.normal(0, 10, 2)]), rng.uniform(-60, 20), rng.uniform(0.6, 1.4))


def draw_kidney(canvas: Canvas, rng: np.random.Generator, kidney: Kidney, renal: Renal, phase: Phase) -> list[Points]:
    """Paint one kidney and its collecting system.

    Args:
        canvas: what to paint on.
        rng: the scene's random stream.
        kidney: its shape.
        renal: its densities.
        phase: contrast phase; in the excretory phase, urine is bright and fills a connected, smooth tree.

    Returns:
        The sites where a stone may lie, each of shape (2,) in mm, and none in opacified urine.
    """
    canvas.fill(outline(rng, kidney), renal.cortex)
    angles = _calyx_angles(rng, kidney)
    for angle in angles:
        _draw_pyramid(canvas, rng, kidney, angle, renal.medulla)
    for _ in range(int(rng.choice([0, 0, 0, 1, 1, 2, 4]))):
        _draw_cyst(canvas, rng, kidney)
    return _draw_sinus(canvas, rng, kidney, renal, angles, opaque=phase == "excretory")


def _calyx_angles(rng: np.random.Generator, kidney: Kidney) -> list[float]:
    count = int(rng.integers(3, 7) if kidney.ry > 38 else rng.integers(2, 5))
    spread = np.linspace(0.42 * np.pi, 1.58 * np.pi, count) + rng.normal(0, 0.15, count)
    return [float(angle) for angle in spread]


def _draw_pyramid(canvas: Canvas, rng: np.random.Generator, kidney: Kidney, angle: float, hu: float) -> None:
    x, y = 0.58 * np.cos(angle), 0.62 * np.sin(angle)
    centre = kidney.at(x, y)
    size = rng.uniform(0.16, 0.26) * kidney.rx
    heading = kidney.angle + angle
    canvas.fill(blob(rng, (centre[0], centre[1]), size * 1.3, size, heading, rough=0.1), hu)


def _draw_sinus(
    canvas: Canvas, rng: np.random.Generator, kidney: Kidney, renal: Renal, angles: list[float], *, opaque: bool
) -> list[Points]:
    """Paint sinus fat, pelvis, infundibula and calyces; return the sites for stones."""
    polar = kidney.hilum < 0.1
    fat = rng.uniform(0.12, 0.3) if polar else rng.uniform(0.25, 0.5)
    middle = kidney.at(0.05 if polar else rng.uniform(0.2, 0.4), 0.0)
    if rng.random() < 0.85:
        points = blob(rng, (middle[0], middle[1]), fat * kidney.rx * 1.2, fat * kidney.ry, kidney.angle, rough=0.15)
        canvas.fill(points, rng.uniform(-95, -20))
    distance = 0.34 + 0.12 * kidney.hydro
    calyx_mm = 2.0 + 7.0 * kidney.hydro
    sites: list[Points] = []
    for angle in angles:
        cup = kidney.at(distance * np.cos(angle) + 0.08, (distance + 0.1) * np.sin(angle))
        filled = rng.random() < 0.6
        if opaque and not filled:
            continue
        width = max(calyx_mm * 0.5, 2.4 if opaque else 1.2)
        canvas.stroke(np.stack([middle, cup]), renal.urine, width)
        cup_mm = max(calyx_mm, 3.5) if opaque else calyx_mm
        canvas.fill(blob(rng, (cup[0], cup[1]), cup_mm * 0.8, cup_mm, kidney.angle + angle, rough=0.06), renal.urine)
        sites.append(cup)
    size = 3.0 + 9.0 * kidney.hydro + rng.uniform(0, 2.5)
    if not polar:
        pelvis = blob(rng, (middle[0], middle[1]), size * 1.4, size, kidney.angle, rough=0.08)
        canvas.fill(pelvis, renal.urine)
        out = kidney.at(0.95, rng.uniform(-0.1, 0.25))
        canvas.stroke(np.stack([middle, out]), renal.urine, max(2.0, size * 0.5))
        for _ in range(int(rng.integers(0, 3))):  # renal veins and arteries in the hilum
            tip = kidney.at(rng.uniform(1.0, 1.5), rng.uniform(-0.4, 0.4))
            canvas.stroke(np.stack([kidney.at(0.45, 0.1), tip]), min(renal.cortex, 160.0), rng.uniform(2, 6))
        sites += [middle, kidney.at(0.62, 0.06)]
    if opaque:  # bright urine would hide a stone, so only outer calyces that the medium has not reached are sites
        thetas, radii = rng.uniform(0.35 * np.pi, 1.65 * np.pi, 8), rng.uniform(0.5, 0.82, 8)
        sites = [kidney.at(x, y) for x, y in zip(radii * np.cos(thetas), radii * np.sin(thetas), strict=True)]
    return sites or [kidney.at(-0.5, 0.0)]


def _draw_cyst(canvas: Canvas, rng: np.random.Generator, kidney: Kidney) -> None:
    theta, distance = rng.uniform(0, 2 * np.pi), rng.uniform(0.6, 1.05)
    centre = kidney.at(distance * np.cos(theta), distance * np.sin(theta))
    radius = float(np.exp(rng.uniform(np.log(2), np.log(16))))
    canvas.fill(ellipse((centre[0], centre[1]), radius, radius * rng.uniform(0.85, 1.1)), rng.uniform(-4, 22))
