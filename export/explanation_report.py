"""The report on a model's explanations, `explanations.json`, measured on pictures with a known truth. Needs PyTorch.

The measures are those of `export.explanation_quality`, taken over many cases, for the model as it is, with parts of its
weights replaced by random ones, and at other layers.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest
from torch import nn
from tqdm import tqdm

from backends.base import Backend
from explain.base import Explainer, Float32Array, Int64Array
from explain.overlay import heatmap
from explain.rise import RISE
from export import explanation_quality as quality
from export.explanation_quality import TOLERANCE_PX, Case, Score
from export.randomised_maps import Counts, compared_figures, randomised_figures, randomised_maps
from models.card import Explain, ImageCard
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


class ExplainedModel(NamedTuple):
    """A model with all that its explanations are measured with.

    Attributes:
        card: its card.
        explain: the card's section on explanations; None to explain by RISE, and then there is no `network`.
        explainer: computes the maps.
        backend: computes the predictions.
        network: with its PyTorch weights; None for a model that came as a graph, whose weights cannot be replaced.
    """

    card: ImageCard
    explain: Explain | None
    explainer: Explainer
    backend: Backend
    network: nn.Module | None

    @property
    def method(self) -> str:
        """The method that is measured."""
        return self.explain.method if self.explain else RISE


def measure(
    model: ExplainedModel,
    cases: Sequence[Case],
    targets: Int64Array,
    curves_on: int,
    counts: Counts,
    *,
    data: str = "synthetic phantoms",
) -> ExplanationReport:
    """Measure a model's explanations: what has a place to be found is pointed at, what has weights gets random ones.

    Args:
        model: the model.
        cases: pictures, all of them with a mask or none.
        targets: the class that each is explained for, shape (N,), int64; the one that the masks show.
        curves_on: how many of them the insertion and deletion curves are computed for.
        counts: how many of them other layers and random weights are measured on.
        data: what the pictures are, for the report.
    """
    heats = heatmaps_of(model.explainer, cases, targets, model.method)
    curves = mean_curves(model, cases[:curves_on], heats[:curves_on], targets)
    is_known = bool(cases[0].mask.any())
    figures: dict[str, Any] = pointing_figures(cases, heats, data=data) if is_known else {"n": len(cases), "data": data}
    figures |= {f"{kind}_auc": round(quality.area_under(curve), 4) for kind, curve in curves.items()}
    if model.network is not None and model.explain is not None:
        tensors = np.stack([case.tensor for case in cases[: max(counts.compare_on, counts.random_on)]])
        maps = randomised_maps(model.card, model.explain, model.network, tensors, targets, counts)
        figures["randomised"] = randomised_figures(maps, cases, points=is_known)
        if is_known:
            figures["compared"] = compared_figures(maps, cases)
    return ExplanationReport(figures, heats, curves)


def heatmaps_of(explainer: Explainer, cases: Sequence[Case], targets: Int64Array, method: str) -> Float32Array:
    """Return the heatmaps of all cases at the input's size, shape (N, h, w), float32 in [0, 1]."""
    height, width = cases[0].mask.shape
    heats = list[Float32Array]()
    for first in tqdm(range(0, len(cases), BATCH), desc="explain"):
        batch = slice(first, first + BATCH)
        tensors = np.stack([case.tensor for case in cases[batch]])
        outputs = explainer.run(tensors, targets[batch], frozenset({method}))
        heats += [heatmap(cam, (height, width)) for cam in outputs.maps[method]]
    return np.stack(heats)


def probability_of(model: ExplainedModel, target: int) -> Score:
    """Return a function from inputs (N, C, h, w) to the probability of a class, as the card has it."""

    def score(batch: Float32Array) -> npt.NDArray[np.float64]:
        return np.asarray(card_probabilities(model.backend.run(batch).logits, model.card)[:, target], np.float64)

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


def mean_curves(model: ExplainedModel, cases: Sequence[Case], heats: Float32Array, targets: Int64Array) -> Curves:
    """Return the mean insertion and deletion curves of the cases, each of shape (CURVE_STEPS + 1,)."""
    pairs = [
        quality.insertion_deletion(probability_of(model, int(target)), case.tensor, heat, CURVE_STEPS)
        for case, heat, target in zip(tqdm(cases, desc="insert, delete"), heats, targets, strict=False)
    ]
    inserted, deleted = (np.mean([pair[index] for pair in pairs], axis=0) for index in (0, 1))
    return {"insertion": inserted, "deletion": deleted}
