"""Synthetic abdominal CT slices with and without kidney stones, drawn from a seed.

No patient's data is in them and none may be read from them: they teach a model what a bright, compact thing inside a
kidney looks like. What confounds (calcified vessels, contrast medium, gallstones) comes at the same rate with and
without stones, so that nothing but the stone gives the label away. Lengths are in mm, densities in HU.
"""

from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np

from training.kidney_stone import anatomy, coronal
from training.kidney_stone.anatomy import Body, Level
from training.kidney_stone.canvas import Canvas, Float32Array, Points, Pose, UInt8Array
from training.kidney_stone.confounders import KINDS, WEIGHTS, Confounder, draw_confounder
from training.kidney_stone.kidney import (
    Kidney,
    Phase,
    Renal,
    draw_kidney,
    draw_perirenal_fat,
    sample_kidney,
    sample_renal,
)
from training.kidney_stone.scanner import Kernel, Scanner, blur, export, noise, sample_scanner, texture
from training.kidney_stone.stones import Stone, blend, coverage, make_visible, sample_stone

View = Literal["axial", "coronal"]
Kidneys = Literal["both", "one", "none", "cut"]

APART_MM = 4.0
"""Least gap between a stone and what would hide it."""

_FAMILY = 0x51_0E  # keeps these random streams apart from others drawn from the same seeds


@dataclass(frozen=True)
class Stratum:
    """Facts of a phantom to report by; of two stones, diameter and contrast are the more visible one's.

    Attributes:
        view: plane of the slice.
        stones: how many, 0-2.
        stone_diameter_mm: mean diameter at true size (`stone_scale` not applied); 0.0 without a stone.
        stone_contrast: grey levels over the surroundings, noise-free, at 224 x 224, at true size; 0.0 without a stone.
        phase: contrast phase.
        confounder: what else is bright; `pelvis_contrast` in every excretory slice with kidneys.
        kernel: reconstruction kernel.
        kidneys: which kidneys are in the picture.
        noise_grey: standard deviation of the noise in grey levels, before resizing.
    """

    view: View
    stones: int
    stone_diameter_mm: float
    stone_contrast: float
    phase: Phase
    confounder: Confounder
    kernel: Kernel
    kidneys: Kidneys
    noise_grey: float


@dataclass(frozen=True)
class Phantom:
    """One synthetic slice.

    Attributes:
        image: RGB, shape (H, W, 3), uint8; 360-640 px a side, as a viewer exports it.
        mask: shape (H, W), uint8, 1 where a stone is, else 0.
        label: 0 `no_stone`, 1 `stone`.
        stratum: facts to report by.
    """

    image: UInt8Array
    mask: UInt8Array
    label: int
    stratum: Stratum


@dataclass(frozen=True)
class Scene:
    """What is to be drawn but for the stones."""

    view: View
    level: Level
    phase: Phase
    kidneys: Kidneys
    confounder: Confounder
    scanner: Scanner
    renal: Renal
    body: Body


PHASES: tuple[Phase, ...] = ("plain", "nephrographic", "excretory")
PHASE_MIX = (0.64, 0.26, 0.1)
"""How often each phase comes, as held-out phantoms have it."""


def draw(
    seed: int, *, label: int | None = None, stone_scale: float = 1.0, phase_mix: tuple[float, ...] = PHASE_MIX
) -> Phantom:
    """Draw one phantom; the same arguments give the same bytes.

    Args:
        seed: any integer ≥ 0.
        label: 0 `no_stone` or 1 `stone`; None draws it, half and half.
        stone_scale: how many times their true size stones are drawn; the rest of the picture stays as it is.
        phase_mix: probability of each of `PHASES`.

    Returns:
        The picture, its stones' mask and the facts to report by.
    """
    if label is None:
        label = int(_stream(seed, 0, 0).random() < 0.5)
    attempt = 0
    while (phantom := _try_draw(seed, attempt, label, stone_scale, phase_mix)) is None:
        attempt += 1
    return phantom


def _stream(seed: int, attempt: int, part: int) -> np.random.Generator:
    """An independent random stream for each part of the picture, so that a stone does not shift what else is drawn."""
    return np.random.default_rng((_FAMILY, seed, attempt, part))


def _try_draw(seed: int, attempt: int, label: int, stone_scale: float, phase_mix: tuple[float, ...]) -> Phantom | None:
    """Draw a phantom, or None where it shows kidneys in which no stone would be seen.

    That is asked of slices without a stone as well: were it not, the crowded ones among them would give the label away.
    """
    scene = _sample_scene(_stream(seed, attempt, 1), label, phase_mix)
    canvas = _new_canvas(_stream(seed, attempt, 2), scene)
    sites, kidneys = _draw_scene(canvas, _stream(seed, attempt, 3), scene)
    scanner, shape = scene.scanner, (canvas.hu.shape[0], canvas.hu.shape[1])
    smooth = blur(canvas.hu, scanner.psf_px)
    hu = smooth + texture(_stream(seed, attempt, 4), shape)
    mask: UInt8Array = np.zeros(shape, dtype=np.uint8)
    diameter = contrast = 0.0
    count = 0
    stones = _place_stones(_stream(seed, attempt, 5), canvas, smooth, sites, scene)
    if kidneys and not stones:
        return None
    if label:
        count = len(stones)
        contrast, diameter = max((seen, stone.diameter_mm) for stone, seen in stones)
        for stone, _ in stones:
            cover = coverage(canvas.pose, stone.outline(stone_scale), shape, scanner.psf_px)
            hu = blend(hu, cover, stone.hu)
            mask |= (cover >= min(0.5, 0.6 * float(cover.max()))).astype(np.uint8)
    hu += noise(_stream(seed, attempt, 6), shape, scanner)
    image = export(_stream(seed, attempt, 7), scanner.window.apply(hu), scanner)
    noise_grey = scanner.noise_hu * scanner.window.grey_per_hu
    facts = (scene.phase, scene.confounder, scanner.kernel, _in_picture(canvas, scene, kidneys), noise_grey)
    return Phantom(image, mask, label, Stratum(scene.view, count, diameter, contrast, *facts))


def _sample_scene(rng: np.random.Generator, label: int, phase_mix: tuple[float, ...]) -> Scene:
    """Draw a scene; only a slice without a stone may lie above or below the kidneys or show none."""
    view: View = "coronal" if rng.random() < 0.33 else "axial"
    phase = PHASES[int(rng.choice(3, p=phase_mix))]
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
    scanner = sample_scanner(rng, brightest_tissue_hu=renal.cortex)
    body = anatomy.sample_body(rng, phase, coronal=view == "coronal")
    return Scene(view, level, phase, kidneys, confounder, scanner, renal, body)


def _new_canvas(rng: np.random.Generator, scene: Scene) -> Canvas:
    """Lay out the picture: native size, field of view, rotation, mirror, shift and the warp of the body."""
    height = int(rng.integers(360, 641))
    width = height if rng.random() < 0.55 else int(np.clip(height * rng.uniform(0.8, 1.25), 360, 640))
    cropped = rng.random() < 0.25
    room = rng.uniform(0.86, 0.98) if cropped else rng.uniform(1.02, 1.3)
    span_mm = float(np.clip(2 * scene.body.half_width * room, 270, 480))
    stretch = rng.uniform(0.96, 1.05) if rng.random() < 0.5 else 1.0
    scale = width / span_mm
    turn = rng.normal(0, 0.06)
    mirror = -1.0 if rng.random() < 0.15 else 1.0
    upside = -1.0 if rng.random() < 0.02 else 1.0
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    linear = linear @ np.diag([mirror, upside * stretch])
    shift = rng.normal(0, 0.02, 2) * span_mm
    aside = scene.body.half_width * rng.uniform(0.42, 0.75) * rng.choice([-1, 1])
    if scene.kidneys == "cut":
        shift[0] += aside
    offset = np.array([width / 2, height / 2]) + scale * shift
    count = 3
    wave = 2 * np.pi / rng.uniform(90, 260, (count, 1))
    heading = rng.uniform(0, 2 * np.pi, (count, 1))
    amplitude = rng.normal(0, 2.6, (count, 2))
    phase = rng.uniform(0, 2 * np.pi, (count, 1))
    waves = np.hstack([amplitude, wave * np.cos(heading), wave * np.sin(heading), phase])
    return Canvas(height, width, Pose(np.column_stack([linear, offset]), waves, scale))


def _draw_scene(canvas: Canvas, rng: np.random.Generator, scene: Scene) -> tuple[list[Points], list[Kidney]]:
    """Paint everything but stones; returns the sites for stones and the kidneys painted."""
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
    kidneys = [
        sample_kidney(rng, (c[0], c[1]), s, coronal=scene.view == "coronal")
        for s, c in zip((-1, 1), centres, strict=True)
    ]
    kidneys = [kidney for side, kidney in zip((-1, 1), kidneys, strict=True) if side in sides]
    draw_confounder(canvas, rng, body, scene.confounder, kidneys, axis)
    sites: list[Points] = []
    for kidney in kidneys:
        draw_perirenal_fat(canvas, rng, kidney)
        sites += draw_kidney(canvas, rng, kidney, scene.renal, scene.phase)
    return sites, kidneys


def _draw_axial_organs(canvas: Canvas, rng: np.random.Generator, scene: Scene) -> tuple[Points, list[Points]]:
    """Paint an axial slice's organs for its level; returns the aorta's outline and the kidneys' centres."""
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
    axis = anatomy.draw_great_vessels(canvas, rng, body, spine[0])
    return axis, [anatomy.axial_kidney_centre(rng, body, spine, side) for side in (-1, 1)]


def _place_stones(
    rng: np.random.Generator, canvas: Canvas, base_hu: Float32Array, sites: list[Points], scene: Scene
) -> list[tuple[Stone, float]]:
    """Choose sites in the picture and make a stone visible at one or two; returns stones and contrasts in grey."""
    wanted = 2 if rng.random() < 0.25 else 1
    placed: list[tuple[Stone, float]] = []
    for index in rng.permutation(len(sites)):
        stone = sample_stone(rng, sites[index] + rng.normal(0, 0.6, 2))
        if len(placed) == wanted or not canvas.inside(stone.centre, 0.04 * canvas.hu.shape[1]):
            continue
        made = make_visible(stone, base_hu, canvas.pose, scene.scanner)
        if made is not None and _stands_apart(made[0], canvas, base_hu, scene, [other for other, _ in placed]):
            placed.append((made[0], made[1].contrast_grey))
    return placed


def _stands_apart(stone: Stone, canvas: Canvas, base_hu: Float32Array, scene: Scene, others: list[Stone]) -> bool:
    """Whether a stone touches no other and no opacified urine, which would hide it from any reader."""
    for other in others:
        if np.hypot(*(stone.centre - other.centre)) < (stone.diameter_mm + other.diameter_mm) / 2 + APART_MM:
            return False
    if scene.phase != "excretory":
        return True
    urine = base_hu > (scene.renal.cortex + scene.renal.urine) / 2
    distance_px = cv2.distanceTransform((~urine).astype(np.uint8), cv2.DIST_L2, 3)
    x, y = np.floor(canvas.pose.project(stone.centre[None])[0]).astype(int)
    return bool(distance_px[y, x] >= (stone.diameter_mm / 2 + APART_MM) * canvas.pose.px_per_mm)


def _in_picture(canvas: Canvas, scene: Scene, kidneys: list[Kidney]) -> Kidneys:
    """Which kidneys the picture shows: a kidney whose centre or hilum's far side is off the grid is cut."""
    if not kidneys:
        return "none"
    edges = [kidney.at(x, y) for kidney in kidneys for x, y in ((1, 0), (-1, 0), (0, 1), (0, -1))]
    if not all(canvas.inside(edge, 0.0) for edge in edges):
        return "cut"
    return scene.kidneys if scene.kidneys != "cut" else "both"
