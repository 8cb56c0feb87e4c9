"""Everything of a phantom but its stones: what the slice shows, how it lies on the pixel grid, and its tissues."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from training.kidney_stone import anatomy, coronal
from training.kidney_stone.anatomy import Body, Level
from training.kidney_stone.canvas import Canvas, Points, Pose
from training.kidney_stone.confounders import KINDS, WEIGHTS, Confounder, draw_confounder
from training.kidney_stone.kidney import (
    PHASES,
    Kidney,
    Phase,
    Renal,
    draw_kidney,
    draw_perirenal_fat,
    sample_kidney,
    sample_renal,
)
from training.kidney_stone.scanner import Scanner, sample_scanner

View = Literal["axial", "coronal"]
Kidneys = Literal["both", "one", "none", "cut"]
"""Which kidneys a picture shows; `cut` means that the edge of the picture cuts one."""


@dataclass(frozen=True)
class Scene:
    """What a slice shows, except for stones.

    Attributes:
        view: plane of the slice.
        level: height of an axial slice.
        phase: contrast phase.
        kidneys: which kidneys are drawn.
        confounder: which kind of bright object is drawn that is no stone.
        scanner: properties of the scanner and of the export.
        renal: densities of the kidneys.
        body: the patient's trunk.
        close: whether the picture is close to the kidneys, see `training.kidney_stone.phantom.draw`.
    """

    view: View
    level: Level
    phase: Phase
    kidneys: Kidneys
    confounder: Confounder
    scanner: Scanner
    renal: Renal
    body: Body
    close: bool = False


def sample_scene(rng: np.random.Generator, label: int, phase_mix: tuple[float, ...], *, close: bool = False) -> Scene:
    """Draw a scene; only one for a slice without a stone may lie above or below the kidneys, or have none.

    Args:
        rng: the scene's random stream.
        label: 0 `no_stone` or 1 `stone`.
        phase_mix: probability of each of `PHASES`.
        close: draw one that is close to the kidneys, coronal, without contrast medium and in a wide window.
    """
    view: View = "coronal" if rng.random() < 0.33 else "axial"
    phase = PHASES[int(rng.choice(3, p=phase_mix))]
    if close:
        view, phase = "coronal", "plain"
    where, missing = rng.random(), rng.random()
    level: Level = "kidneys"
    kidneys: Kidneys = "both" if missing < 0.8 else "one" if missing < 0.9 else "cut"
    if label == 0 and where < 0.12:
        kidneys = "none"
        level = "lungs" if where < 0.045 else "pelvis" if where < 0.09 else "kidneys"
    confounder = KINDS[int(rng.choice(len(KINDS), p=WEIGHTS))]
    if phase == "excretory" and kidneys != "none":
        confounder = "pelvis_contrast"
    renal = sample_renal(rng, phase)
    scanner = sample_scanner(rng, brightest_tissue_hu=renal.cortex, wide=close)
    body = anatomy.sample_body(rng, phase, coronal=view == "coronal")
    return Scene(view, level, phase, kidneys, confounder, scanner, renal, body, close)


def new_canvas(rng: np.random.Generator, scene: Scene) -> Canvas:
    """Draw the layout of a picture: its size, field of view, rotation, mirroring, shift and the warp of the body."""
    height = int(rng.integers(360, 641))
    width = height if rng.random() < 0.55 else int(np.clip(height * rng.uniform(0.8, 1.25), 360, 640))
    cropped = rng.random() < 0.25
    room = rng.uniform(0.86, 0.98) if cropped else rng.uniform(1.02, 1.3)
    if scene.close:
        height, room = round(height * 0.8), rng.uniform(0.62, 0.9)
    span_mm = float(np.clip(2 * scene.body.half_width * room, 200 if scene.close else 270, 480))
    stretch = rng.uniform(0.96, 1.05) if rng.random() < 0.5 else 1.0
    scale = width / span_mm
    angle = rng.normal(0, 0.06)
    mirror = -1.0 if rng.random() < 0.15 else 1.0
    flip = -1.0 if rng.random() < 0.02 else 1.0
    linear = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = linear @ np.diag([mirror, flip * stretch])
    shift = rng.normal(0, 0.02, 2) * span_mm
    sideways = scene.body.half_width * rng.uniform(0.42, 0.75) * rng.choice([-1, 1])
    if scene.kidneys == "cut":
        shift[0] += sideways
    offset = np.array([width / 2, height / 2]) + scale * shift
    count = 3
    wave_number = 2 * np.pi / rng.uniform(90, 260, (count, 1))
    heading = rng.uniform(0, 2 * np.pi, (count, 1))
    amplitude = rng.normal(0, 2.6, (count, 2))
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    waves = np.hstack([amplitude, wave_number * np.cos(heading), wave_number * np.sin(heading), phase])
    return Canvas(height, width, Pose(np.column_stack([linear, offset]), waves, scale))


def draw_scene(canvas: Canvas, rng: np.random.Generator, scene: Scene) -> tuple[list[Points], list[Kidney]]:
    """Paint everything but stones.

    Returns:
        The sites where a stone may lie, each of shape (2,) in mm, and the kidneys that were painted.
    """
    body, sides = scene.body, [-1, 1]
    if scene.kidneys == "one":
        sides = [int(rng.choice(sides))]
    if scene.view == "coronal":
        coronal.draw_coronal_trunk(canvas, rng, body)
        coronal.draw_coronal_organs(canvas, rng, body)
        half = coronal.draw_coronal_midline(canvas, rng, body, anterior=bool(rng.random() < 0.3))
        axis = np.stack([np.full(20, half * 0.6), np.linspace(-120, 100, 20)], axis=1)
        drop = rng.normal(0, 18)
        centres = [np.array([s * (half + rng.uniform(36, 52)), drop + rng.normal(0, 9)]) for s in (-1, 1)]
    else:
        anatomy.draw_table(canvas, rng, body)
        anatomy.draw_trunk(canvas, rng, body)
        axis, centres = _draw_axial_organs(canvas, rng, scene)
    if scene.kidneys == "none":
        draw_confounder(canvas, rng, body, scene.confounder, [], axis)
        return [], []
    both = [
        (side, sample_kidney(rng, (centre[0], centre[1]), side, coronal=scene.view == "coronal"))
        for side, centre in zip((-1, 1), centres, strict=True)
    ]
    kidneys = [kidney for side, kidney in both if side in sides]
    draw_confounder(canvas, rng, body, scene.confounder, kidneys, axis)
    sites: list[Points] = []
    for kidney in kidneys:
        draw_perirenal_fat(canvas, rng, kidney)
        sites += draw_kidney(canvas, rng, kidney, scene.renal, scene.phase)
    return sites, kidneys


def _draw_axial_organs(canvas: Canvas, rng: np.random.Generator, scene: Scene) -> tuple[Points, list[Points]]:
    """Paint the organs of an axial slice for its level; return the aorta's outline and the kidneys' centres."""
    body = scene.body
    if scene.level == "lungs":
        anatomy.draw_lung_bases(canvas, rng, body)
    elif scene.level == "pelvis":
        anatomy.draw_pelvis(canvas, rng, body)
        anatomy.draw_bowel(canvas, rng, body)
    else:
        anatomy.draw_bowel(canvas, rng, body)
        anatomy.draw_upper_organs(canvas, rng, body)
    if scene.level != "pelvis":
        anatomy.draw_ribs(canvas, rng, body)
    spine = anatomy.draw_spine(canvas, rng, body) if scene.level != "pelvis" else (0.5 * body.cavity_depth, 24.0)
    aorta = anatomy.draw_great_vessels(canvas, rng, body, spine[0])
    return aorta, [anatomy.axial_kidney_centre(rng, body, spine, side) for side in (-1, 1)]


def kidneys_in_picture(canvas: Canvas, scene: Scene, kidneys: list[Kidney]) -> Kidneys:
    """Return which kidneys the picture shows; a kidney is cut if its hilum, its poles or its far side lie outside."""
    if not kidneys:
        return "none"
    edges = [kidney.at(x, y) for kidney in kidneys for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    if not all(canvas.inside(edge, 0.0) for edge in edges):
        return "cut"
    return scene.kidneys if scene.kidneys != "cut" else "both"
