"""Figures of the graph that is served on held-out phantoms, by stratum."""

import itertools
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from backends.onnx import OnnxBackend
from models.card import read_image_card
from models.package import GRAPH
from postprocessing.classification import card_probabilities
from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from runners.cores import available_cores
from training import metrics
from training.kidney_stone.data import TEST
from training.kidney_stone.judging import Figures, rates
from training.kidney_stone.phantom import Stratum, draw

DIAMETERS_MM = (0.0, 4.0, 6.0, 9.0, 100.0)
CONTRASTS_GREY = (0.0, 60.0, 100.0, 150.0, 256.0)
"""Edges of the strata by a stone's diameter and by its contrast."""


def _draw(task: tuple[int, ImageInput]) -> tuple[npt.NDArray[np.float32], int, Stratum]:
    """Draw the phantom of a seed in a worker process; return its transformed picture, its label and its stratum."""
    seed, spec = task
    cv2.setNumThreads(1)
    phantom = draw(seed)
    return transform(phantom.image, spec).tensor, phantom.label, phantom.stratum


def score(package: Path, count: int, batch: int = 16) -> tuple[metrics.Labels, metrics.Scores, list[Stratum]]:
    """Draw held-out phantoms in parallel and run them through the graph that is served.

    Returns:
        Labels (count,), P(stone) (count,), and the stratum of each phantom.
    """
    card = read_image_card(package / "card.toml")
    backend = OnnxBackend(package / GRAPH, threads=available_cores())
    labels: list[int] = []
    scores: list[float] = []
    strata: list[Stratum] = []
    processes = ProcessPoolExecutor(available_cores(), get_context("spawn"))  # a fork of OpenCV's threads can hang
    with processes as pool, tqdm(total=count, desc="score", unit="phantom") as bar:
        phantoms = pool.map(_draw, ((TEST + index, card.input) for index in range(count)), chunksize=batch)
        while items := list(itertools.islice(phantoms, batch)):
            logits = backend.run(np.stack([tensor for tensor, _, _ in items])).logits
            scores += card_probabilities(logits, card)[:, 1].tolist()
            labels += [label for _, label, _ in items]
            strata += [stratum for _, _, stratum in items]
            bar.update(len(items))
    backend.close()
    return np.array(labels), np.array(scores), strata


def auc_by_stratum(labels: metrics.Labels, scores: metrics.Scores, strata: list[Stratum]) -> dict[str, dict[str, Any]]:
    """Return the AUC within each stratum, with the counts of positive and negative phantoms.

    In strata by diameter and contrast, the stones of that range are compared with every phantom without a stone.
    """
    rows: dict[str, dict[str, Any]] = {}

    def add(name: str, inside: npt.NDArray[np.bool_]) -> None:
        positives, count = int(labels[inside].sum()), int(inside.sum())
        if 0 < positives < count:
            auc = round(metrics.auc(labels[inside], scores[inside]), 4)
            rows[name] = {"auc": auc, "positives": positives, "negatives": count - positives}

    for field in ("view", "phase", "confounder", "kernel", "kidneys"):
        values = np.array([getattr(stratum, field) for stratum in strata])
        for value in sorted(set(values)):
            add(f"{field}={value}", values == value)
    for field, edges, unit in (("stone_diameter_mm", DIAMETERS_MM, "mm"), ("stone_contrast", CONTRASTS_GREY, "grey")):
        values = np.array([getattr(stratum, field) for stratum in strata])
        for low, high in itertools.pairwise(edges):
            in_range = (values >= low) & (values < high) & (labels == 1)
            add(f"{field}={low:g}-{high:g} {unit}", in_range | (labels == 0))
    return rows


def metrics_at(threshold: float) -> Figures:
    """Return the figures of a model whose stones are called at a threshold, as functions of labels and scores."""
    return rates(threshold) | {
        "sensitivity_at_specificity_95": metrics.sensitivity_at_specificity,
        "f2": lambda labels, scores: metrics.f2(labels, scores, threshold),
        "ece": metrics.expected_calibration_error,
    }


def phantom_figures(labels: metrics.Labels, scores: metrics.Scores, threshold: float) -> dict[str, Any]:
    """Return the figures of phantoms at the card's threshold, with their bootstrap intervals.

    The threshold was chosen on real slices, of which fewer show stones than the half of the phantoms that do.
    """
    measured: dict[str, Any] = {}
    for name, metric in tqdm(metrics_at(threshold).items(), desc="bootstrap"):
        measured[name] = round(metric(labels, scores), 4)
        measured[f"{name}_ci95"] = metrics.bootstrap_interval(metric, labels, scores)
    return measured | {"n": len(labels), "positives": int(labels.sum())}
