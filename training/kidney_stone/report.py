"""Measure the shipped kidney-stone weights on held-out phantoms: `python -m training.kidney_stone.report --help`.

It runs the graph that is served (the rounded weights, in ONNX Runtime), and writes `report.json` beside the card and
the ROC curve and the calibration plot into docs/.
"""

import itertools
import json
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from sklearn.calibration import calibration_curve
from sklearn.metrics import roc_curve
from tqdm import tqdm

from backends.onnx import OnnxBackend
from models.card import read_image_card
from models.package import GRAPH
from models.registry import package_folder
from postprocessing.classification import softmax
from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from runners.cores import available_cores
from training import metrics
from training.kidney_stone.data import TEST
from training.kidney_stone.phantom import Stratum, draw
from training.report import write_report

PACKAGE = package_folder("kidney-stone")
METRICS: dict[str, metrics.Metric] = {
    "auc": metrics.auc,
    "sensitivity": metrics.sensitivity,
    "specificity": metrics.specificity,
    "sensitivity_at_specificity_95": metrics.sensitivity_at_specificity,
    "f2": metrics.f2,
    "ece": metrics.expected_calibration_error,
}
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
    spec = read_image_card(package / "card.toml").input
    backend = OnnxBackend(package / GRAPH, threads=available_cores())
    labels: list[int] = []
    scores: list[float] = []
    strata: list[Stratum] = []
    with ProcessPoolExecutor(available_cores()) as pool, tqdm(total=count, desc="score", unit="phantom") as bar:
        phantoms = pool.map(_draw, ((TEST + index, spec) for index in range(count)), chunksize=batch)
        while items := list(itertools.islice(phantoms, batch)):
            logits = backend.run(np.stack([tensor for tensor, _, _ in items])).logits
            scores += softmax(logits)[:, 1].tolist()
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


def plot(labels: metrics.Labels, scores: metrics.Scores, measured: dict[str, Any], path: Path) -> None:
    """Draw the ROC curve and the reliability diagram side by side."""
    sheet = Figure(figsize=(10, 4.6), layout="constrained")
    left, right = sheet.subplots(1, 2)
    left.plot(*roc_curve(labels, scores)[:2], color="#0b6e99")
    left.plot([0, 1], [0, 1], ":", color="grey")
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, AUC {measured['auc']:.4f}", aspect="equal")
    observed, mean = calibration_curve(labels, scores, n_bins=15)
    right.plot(mean, observed, "o-", color="#0b6e99")
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(
        xlabel="mean P(stone)", ylabel="observed rate", title=f"Calibration, ECE {measured['ece']:.4f}", aspect="equal"
    )
    sheet.suptitle(f"kidney-stone on {len(labels)} held-out synthetic phantoms (not real CT)")
    path.parent.mkdir(parents=True, exist_ok=True)
    sheet.savefig(path, dpi=110, metadata={"Software": None})


@click.command()
@click.option("--package", default=PACKAGE, type=click.Path(path_type=Path, exists=True), help="Folder of the model.")
@click.option("--count", default=4000, show_default=True, help="Held-out phantoms.")
@click.option(
    "--out", default=None, type=click.Path(path_type=Path), help="Folder of report.json; the package by default."
)
@click.option("--plot-to", default=Path("docs/kidney-stone-quality.png"), type=click.Path(path_type=Path))
def report(package: Path, count: int, out: Path | None, plot_to: Path) -> None:
    """Score held-out phantoms, and write the report and the plots."""
    labels, scores, strata = score(package, count)
    measured: dict[str, Any] = {}
    for name, metric in tqdm(METRICS.items(), desc="bootstrap"):
        measured[name] = round(metric(labels, scores), 4)
        measured[f"{name}_ci95"] = metrics.bootstrap_interval(metric, labels, scores)
    measured |= {"n": count, "positives": int(labels.sum()), "threshold": 0.5, "data": "synthetic phantoms"}
    command = f"python -m training.kidney_stone.report --count {count}"
    written = write_report(out or package, measured, command, strata=auc_by_stratum(labels, scores, strata))
    plot(labels, scores, measured, plot_to)
    click.echo(json.dumps(written, indent=2))


if __name__ == "__main__":
    report()
