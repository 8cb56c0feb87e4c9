"""The report on a model's explanations, `explanations.json`, measured on pictures with a known truth. Needs PyTorch.

The measures are those of `export.explanation_quality`, taken over many cases, for the model as it is, with parts of its
weights replaced by random ones, and at other layers.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest, spearmanr
from torch import nn
from tqdm import tqdm

from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES, Explainer, Float32Array
from explain.onnx import OnnxExplainer
from explain.overlay import heatmap
from export import explanation_quality as quality
from export.explanation_quality import Case
from models.architectures import build
from models.card import Explain, ImageCard
from models.checkpoint import load_network, read_checkpoint
from models.package import EXPLAIN, WEIGHTS

TOLERANCE_PX = 15
BATCH = 8
CURVE_STEPS = 20
COMPARED_LAYERS = tuple(f"backbone.blocks.{number}" for number in range(2, 7))
"""Layers of EfficientNet-B4, the architecture of the only bundled model that has such cases."""

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
    card: ImageCard,
    explain: Explain,
    target: int,
    package: Path,
    cases: Sequence[Case],
    curves_on: int,
    compare_on: int,
) -> ExplanationReport:
    """Measure the explanations of a package.

    Args:
        card: the package's card.
        explain: its section on explanations.
        target: index of the class to explain, the one whose objects the masks show.
        package: folder with the explain graph and the weights.
        cases: pictures with a known truth.
        curves_on: how many of them the insertion and deletion curves are computed for.
        compare_on: how many of them other layers and random weights are measured on.
    """
    by_method = heatmaps_of(OnnxExplainer(package / EXPLAIN, torch.get_num_threads()), cases, target, "explain")
    heats = by_method[explain.method]
    network = load_network(card, read_checkpoint(package / WEIGHTS).weights)
    curves = mean_curves(network, cases[:curves_on], heats[:curves_on], target, card.temperature or 1.0)
    torch.manual_seed(0)
    untrained = build(card)
    figures = {
        **pointing_figures(cases, heats),
        **{f"{kind}_auc": round(quality.area_under(curve), 4) for kind, curve in curves.items()},
        "randomised": randomised_figures(network, untrained, explain, cases[:compare_on], heats[:compare_on], target),
        "compared": compared_figures(network, COMPARED_LAYERS, cases[:compare_on], target),
    }
    return ExplanationReport(figures, heats, curves)


def heatmaps_of(explainer: Explainer, cases: Sequence[Case], target: int, title: str) -> dict[str, Float32Array]:
    """Explain all cases by every method, under a progress bar with this title.

    Returns:
        Method → heatmaps at the input's size, shape (N, h, w), float32 in [0, 1].
    """
    height, width = cases[0].mask.shape
    rows: dict[str, list[Float32Array]] = {method: [] for method in METHOD_NAMES}
    for first in tqdm(range(0, len(cases), BATCH), desc=title):
        tensors = np.stack([case.tensor for case in cases[first : first + BATCH]])
        outputs = explainer.run(tensors, np.full(len(tensors), target, np.int64), frozenset(METHOD_NAMES))
        for method in METHOD_NAMES:
            rows[method] += [heatmap(cam, (height, width)) for cam in outputs.maps[method]]
    return {method: np.stack(heats) for method, heats in rows.items()}


def count_hits(cases: Sequence[Case], points: Sequence[quality.Point]) -> int:
    """Return at how many cases the point is on the mask, give or take the tolerance."""
    return sum(quality.is_hit(point, case.mask, TOLERANCE_PX) for case, point in zip(cases, points, strict=True))


def pointing_game(cases: Sequence[Case], heats: Float32Array) -> float:
    """Return the share of the cases whose heatmap peaks on the mask, give or take the tolerance."""
    return round(count_hits(cases, [quality.peak(heat) for heat in heats]) / len(cases), 4)


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


def mean_curves(
    network: nn.Module, cases: Sequence[Case], heats: Float32Array, target: int, temperature: float = 1.0
) -> Curves:
    """Return the mean insertion and deletion curves of the cases, each of shape (CURVE_STEPS + 1,)."""

    def score(batch: Float32Array) -> npt.NDArray[np.float64]:
        with torch.inference_mode():
            logits = network(torch.from_numpy(batch)).double() / temperature
        probabilities = logits.softmax(1)[:, target]
        return np.asarray(probabilities.numpy())

    pairs = [
        quality.insertion_deletion(score, case.tensor, heat, CURVE_STEPS)
        for case, heat in zip(tqdm(cases, desc="insert, delete"), heats, strict=True)
    ]
    inserted, deleted = (np.mean([pair[index] for pair in pairs], axis=0) for index in (0, 1))
    return {"insertion": inserted, "deletion": deleted}


def randomised_figures(
    network: nn.Module, untrained: nn.Module, explain: Explain, cases: Sequence[Case], heats: Float32Array, target: int
) -> dict[str, Any]:
    """Return the parameter-randomisation check (Adebayo et al. 2018): random weights must change the maps.

    Args:
        network: the trained network.
        untrained: the same network with random weights.
        explain: layer and method of the explanations.
        cases: the cases to measure on.
        heats: heatmaps of the trained network for these cases.
        target: index of the explained class.

    Returns:
        Which weights are random → the pointing game, and the mean rank correlation with the trained heatmaps.
    """
    trained_weights, random_weights = network.state_dict(), untrained.state_dict()
    stages = [name for name, _ in network.stages()]  # type: ignore[operator]
    after_layer = tuple(f"{name}." for name in stages[stages.index(explain.layer) + 1 :])
    randomised = {
        "head": [name for name in random_weights if name.startswith(f"{stages[-1]}.")],
        "after_layer": [name for name in random_weights if name.startswith(after_layer)],
        "all": list(random_weights),
    }
    figures: dict[str, Any] = {"trained": {"pointing_game": pointing_game(cases, heats)}}
    for part, names in randomised.items():
        mixed = copy.deepcopy(network)
        mixed.load_state_dict({**trained_weights, **{name: random_weights[name] for name in names}})
        explainer = AutogradExplainer(mixed, explain.layer)
        random_heats = heatmaps_of(explainer, cases, target, f"random {part}")[explain.method]
        pairs = zip(_coarse(heats), _coarse(random_heats), strict=True)
        figures[part] = {
            "pointing_game": pointing_game(cases, random_heats),
            "rank_correlation": round(float(np.nanmean([spearmanr(*pair).statistic for pair in pairs])), 4),
        }
    return figures


def _coarse(heats: Float32Array) -> list[Float32Array]:
    return [np.asarray(cv2.resize(heat, (14, 14), interpolation=cv2.INTER_AREA)).ravel() for heat in heats]


def compared_figures(
    network: nn.Module, layers: Sequence[str], cases: Sequence[Case], target: int
) -> list[dict[str, Any]]:
    """Return pointing game and energy of five layers by each method, and of products of two layers' heatmaps.

    Args:
        network: the trained network.
        layers: five layers, from the finest to the coarsest.
        cases: the cases to measure on.
        target: index of the explained class.

    Returns:
        One row for each layer and method, the best pointing game first.
    """
    heats: dict[tuple[str, str], Float32Array] = {}
    for layer in layers:
        by_method = heatmaps_of(AutogradExplainer(network, layer), cases, target, layer)
        heats |= {(layer, method): maps for method, maps in by_method.items()}
    for method in ("layercam", "hirescam"):
        for fine, coarse in ((layers[2], layers[4]), (layers[1], layers[2]), (layers[2], layers[3])):
            heats[f"{fine} x {coarse}", method] = heats[fine, method] * heats[coarse, method]
    rows: list[dict[str, Any]] = [
        {
            "layer": layer,
            "method": method,
            "pointing_game": pointing_game(cases, maps),
            "energy_within_tolerance": mean_energy(cases, maps, TOLERANCE_PX),
        }
        for (layer, method), maps in heats.items()
    ]
    return sorted(rows, key=lambda row: -row["pointing_game"])
