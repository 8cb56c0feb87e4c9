"""Synthetic abdominal CT slices with and without kidney stones, drawn from a seed.

They contain no patient's data, and nothing about patients may be concluded from them. They teach a model what a bright,
compact object inside a kidney looks like. Confounders (calcified vessels, contrast medium, gallstones) are equally
frequent with and without stones, so that nothing but the stone gives the label away. Lengths are in mm and densities
in HU.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from training.kidney_stone.canvas import Canvas, Float32Array, Points, UInt8Array
from training.kidney_stone.confounders import Confounder
from training.kidney_stone.kidney import Phase
from training.kidney_stone.scanner import Kernel, blur, export, noise, texture
from training.kidney_stone.scene import (
    Kidneys,
    Scene,
    View,
    draw_scene,
    kidneys_in_picture,
    new_canvas,
    sample_scene,
)
from training.kidney_stone.stones import Stone, blend, coverage, make_visible, sample_stone

PHASE_MIX = (0.64, 0.26, 0.1)
"""Probability of each contrast phase in `training.kidney_stone.kidney.PHASES` among held-out phantoms."""

MIN_GAP_MM = 4.0
"""Smallest distance between a stone and whatever would hide it."""

_FAMILY = 0x51_0E  # keeps these random streams apart from others that start from the same seeds


@dataclass(frozen=True)
class Stratum:
    """Properties of a phantom to report by. With two stones, diameter and contrast are those of the more visible one.

    Attributes:
        view: plane of the slice.
        stones: how many there are, 0-2.
        stone_diameter_mm: mean diameter at true size (`stone_scale` is not applied); 0.0 without a stone.
        stone_contrast: grey levels above the surroundings at true size, noise-free, at 224 x 224; 0.0 without a stone.
        phase: contrast phase.
        confounder: what else is bright; `pelvis_contrast` in every excretory slice with kidneys.
        kernel: reconstruction kernel.
        kidneys: which kidneys the picture shows.
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
        image: RGB, shape (H, W, 3), uint8; 360-640 pixels a side, as a viewer exports it.
        mask: 1 where a stone is, else 0; shape (H, W), uint8.
        label: 0 `no_stone`, 1 `stone`.
        stratum: properties to report by.
    """

    image: UInt8Array
    mask: UInt8Array
    label: int
    stratum: Stratum


def draw(
    seed: int,
    *,
    label: int | None = None,
    stone_scale: float = 1.0,
    phase_mix: tuple[float, ...] = PHASE_MIX,
    close: bool = False,
) -> Phantom:
    """Draw one phantom; the same arguments give the same bytes.

    Args:
        seed: any integer that is not negative.
        label: 0 `no_stone` or 1 `stone`; None lets the seed choose, with equal probability.
        stone_scale: factor by which stones are enlarged; the rest of the picture stays as it is.
        phase_mix: probability of each of `training.kidney_stone.kidney.PHASES`.
        close: draw a coronal slice without contrast medium, close to the kidneys and in a wide window, with small
            stones, as some hospitals export them; `phase_mix` is not used.

    Returns:
        The picture, its stones' mask and its stratum.
    """
    if label is None:
        label = int(_stream(seed, 0, 0).random() < 0.5)
    attempt = 0
    while (phantom := _try_draw(seed, attempt, label, stone_scale, phase_mix, close)) is None:
        attempt += 1
    return phantom


def _stream(seed: int, attempt: int, part: int) -> np.random.Generator:
    """Return the random stream of one part of the picture, independent of the others.

    Whether stones are drawn therefore does not change the rest of the picture.
    """
    return np.random.default_rng((_FAMILY, seed, attempt, part))


def _try_draw(
    seed: int, attempt: int, label: int, stone_scale: float, phase_mix: tuple[float, ...], close: bool
) -> Phantom | None:
    """Draw a phantom, or return None if it has kidneys in which no stone would be visible.

    Slices without a stone are rejected by the same rule, because crowded slices would otherwise give the label away.
    """
    scene = sample_scene(_stream(seed, attempt, 1), label, phase_mix, close=close)
    canvas = new_canvas(_stream(seed, attempt, 2), scene)
    sites, kidneys = draw_scene(canvas, _stream(seed, attempt, 3), scene)
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
        contrast, diameter = max((contrast_grey, stone.diameter_mm) for stone, contrast_grey in stones)
        for stone, _ in stones:
            cover = coverage(canvas.pose, stone.outline(stone_scale), shape, scanner.psf_px)
            hu = blend(hu, cover, stone.hu)
            mask |= (cover >= min(0.5, 0.6 * float(cover.max()))).astype(np.uint8)
    hu += noise(_stream(seed, attempt, 6), shape, scanner)
    image = export(_stream(seed, attempt, 7), scanner.window.apply(hu), scanner)
    stratum = Stratum(
        view=scene.view,
        stones=count,
        stone_diameter_mm=diameter,
        stone_contrast=contrast,
        phase=scene.phase,
        confounder=scene.confounder,
        kernel=scanner.kernel,
        kidneys=kidneys_in_picture(canvas, scene, kidneys),
        noise_grey=scanner.noise_hu * scanner.window.grey_per_hu,
    )
    return Phantom(image, mask, label, stratum)


def _place_stones(
    rng: np.random.Generator, canvas: Canvas, base_hu: Float32Array, sites: list[Points], scene: Scene
) -> list[tuple[Stone, float]]:
    """Place visible stones at one or two of the sites; return each with its contrast in grey levels."""
    count = 2 if rng.random() < 0.25 else 1
    placed: list[tuple[Stone, float]] = []
    for index in rng.permutation(len(sites)):
        candidate = sample_stone(rng, sites[index] + rng.normal(0, 0.6, 2), small=scene.close)
        if len(placed) == count or not canvas.inside(candidate.centre, 0.04 * canvas.hu.shape[1]):
            continue
        visible = make_visible(candidate, base_hu, canvas.pose, scene.scanner)
        if visible is None:
            continue
        stone, visibility = visible
        if _stands_apart(stone, canvas, base_hu, scene, [other for other, _ in placed]):
            placed.append((stone, visibility.contrast_grey))
    return placed


def _stands_apart(stone: Stone, canvas: Canvas, base_hu: Float32Array, scene: Scene, others: list[Stone]) -> bool:
    """Return whether a stone keeps its distance from other stones and from opacified urine, which would hide it."""
    for other in others:
        if np.hypot(*(stone.centre - other.centre)) < (stone.diameter_mm + other.diameter_mm) / 2 + MIN_GAP_MM:
            return False
    if scene.phase != "excretory":
        return True
    urine = base_hu > (scene.renal.cortex + scene.renal.urine) / 2
    distance_px = cv2.distanceTransform((~urine).astype(np.uint8), cv2.DIST_L2, 3)
    x, y = np.floor(canvas.pose.project(stone.centre[None])[0]).astype(int)
    return bool(distance_px[y, x] >= (stone.diameter_mm / 2 + MIN_GAP_MM) * canvas.pose.px_per_mm)
