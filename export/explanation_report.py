"""The report on a model's explanations, `explanations.json`, measured on pictures with a known truth. Needs PyTorch.

The measures are those of `export.explanation_quality`, taken over many cases, for the model as it is, with parts of its
weights replaced by random ones, and at other layers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from tqdm import tqdm

from backends.base import Backend
from backends.onnx import OnnxBackend
from explain.base import Explainer, Float32Array
from explain.onnx import OnnxExplainer
from explain.overlay import heatmap
from export import explanation_quality as quality
from export.explanation_quality import TOLERANCE_PX, Case, Score
from export.randomised_maps import Counts, compared_figures, randomised_figures, randomised_maps
from models.card import Explain, ImageCard
from models.checkpoint import load_network, read_checkpoint
from models.package import EXPLAIN, GRAPH, WEIGHTS
from postprocessing.classification import card_probabilities

BATCH = 8
CURVE_STEPS = 20
Curves = dict[str, npt.NDArray[np.float64]]
"""The mean `insertion` and `deletion` curve."""


class ExplanationReport(NamedTuple):
    """What was measured.

    Attributes:
        figures: the sections of the report.
        heatmaps: of each case by the card's method, shape (N, h, w), float32 in [0, 1].
        curves: the curves behind the figures.
    """

    figures: dict[str, Any]
    heatmaps: Float32Array
    curves: Curves


def measure(
    card: ImageCard, explain: Explain, target: int, package: Path, cases: Sequence[Case], curves_on: int, counts: Counts
) -> ExplanationReport:
    """Measure the explanations of a package.

    Args:
        card: the package's card.
        explain: its section on explanations.
        target: index of the class to explain, the one whose objects the masks show.
        package: folder with the graphs and the weights.
        cases: pictures with a known truth.
        curves_on: how many of them the insertion and deletion curves are computed for.
        counts: how many of them other layers and random weights are measured on.
    """
    threads = torch.get_num_threads()
    heats = heatmaps_of(OnnxExplainer(package / EXPLAIN, threads), cases, target, explain.method)
    score = score_of(OnnxBackend(package / GRAPH, threads), card, target)
    curves = mean_curves(score, cases[:curves_on], heats[:curves_on])
    network = load_network(card, read_checkpoint(package / WEIGHTS).weights)
    tensors = np.stack([case.tensor for case in cases[: max(counts.compare_on, counts.random_on)]])
    maps = randomised_maps(card, explain, network, tensors, target, counts)
    figures = {
        **pointing_figures(cases, heats),
        **{f"{kind}_auc": round(quality.area_under(curve), 4) for kind, curve in curves.items()},
        "randomised": randomised_figures(maps, cases),
        "compared": compared_figures(maps, cases),
    }
    return ExplanationReport(figures, heats, curves)


def heatmaps_of(explainer: Explainer, cases: Sequence[Case], target: int, method: str) -> Float32Array:
    """Return the heatmaps of all cases at the input's size, shape (N, h, w), float32 in [0, 1]."""
    height, width = cases[0].mask.shape
    heats = list[Float32Array]()
    for first in tqdm(range(0, len(cases), BATCH), desc="explain"):
        tensors = np.stack([case.tensor for case in cases[first : first + BATCH]])
        outputs = explainer.run(tensors, np.full(len(tensors), target, np.int64), frozenset({method}))
        heats += [heatmap(cam, (height, width)) for cam in outputs.maps[method]]
    return np.stack(heats)


def score_of(backend: Backend, card: ImageCard, target: int) -> Score:
    """Return a function from inputs (N, 3, h, w) to the probability of a class, as the card has it."""

    def score(batch: Float32Array) -> npt.NDArray[np.float64]:
        return np.asarray(card_probabilities(backend.run(batch).logits, card)[:, target], np.float64)

    return score


def count_hits(cases: Sequence[Case], points: Sequence[quality.Point]) -> int:
    """Return at how many cases the point is on the mask, give or take the tolerance."""
    return sum(quality.is_hit(point, case.mask, TOLERANCE_PX) for case, point in zip(cases, points, strict=True))


def mean_energy(cases: Sequence[Case], heats: Float32Array, around_px: int = 0) -> float:
    """Return the mean share of the heatmaps on the masks, which are dilated by `around_px` before."""
    masks = [quality.dilate(case.mask, around_px) if around_px else case.mask for case in cases]
    return round(float(np.mean([quality.energy(heat, mask) for heat, mask in zip(heats, masks, strict=True)])), 4)


def pointing_figures(cases: Sequence[Case], heats: Float32Array, *, data: str = "synthetic phantoms") -> dict[str, Any]:
    """Return the pointing game and energy of heatmaps, beside those of baselines that ignore the model.

    Args:
        cases: pictures with a known truth.
        heats: their heatmaps, shape (N, h, w), float32 in [0, 1].
        data: what the pictures are, for the report.
    """
    count, hits = len(cases), count_hits(cases, [quality.peak(heat) for heat in heats])
    baselines = {
        "centre": [quality.centre(case.mask.shape) for case in cases],
        "brightest_blob": [quality.brightest_blob(case.grey) for case in cases],
    }
    return {
        "n": count,
        "tolerance_px": TOLERANCE_PX,
        "pointing_game": round(hits / count, 4),
        "pointing_game_ci95": [
            round(float(limit), 4) for limit in binomtest(hits, count).proportion_ci(method="wilson")
        ],
        "energy": mean_energy(cases, heats),
        "energy_within_tolerance": mean_energy(cases, heats, TOLERANCE_PX),
        "uniform_energy": round(float(np.mean([case.mask.mean() for case in cases])), 4),
        "baselines": {name: round(count_hits(cases, points) / count, 4) for name, points in baselines.items()},
        "data": data,
    }


def mean_curves(score: Score, cases: Sequence[Case], heats: Float32Array) -> Curves:
    """Return the mean insertion and deletion curves of the cases, each of shape (CURVE_STEPS + 1,)."""
    pairs = [
        quality.insertion_deletion(score, case.tensor, heat, CURVE_STEPS)
        for case, heat in zip(tqdm(cases, desc="insert, delete"), heats, strict=True)
    ]
    inserted, deleted = (np.mean([pair[index] for pair in pairs], axis=0) for index in (0, 1))
    return {"insertion": inserted, "deletion": deleted}
