"""Measure the shipped kidney-stone weights on held-out phantoms: `python -m training.kidney_stone.report --help`.

Runs the graph that is served (the rounded weights, ONNX Runtime), and writes `report.json` beside the card and the
ROC and calibration plots into docs/.
"""

import itertools
import json
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import click
import cv2
import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from backends.onnx import OnnxBackend
from models.card import read_image_card
from models.registry import package_of
from postprocessing.interpret import softmax
from preprocessing.spec import ImageInput
from preprocessing.transform import transform
from training import figures as quality
from training.kidney_stone.data import TEST
from training.kidney_stone.phantom import Stratum, draw
from training.report import conditions, write_report

PACKAGE = package_of("kidney-stone")
FIGURES: dict[str, quality.Figure] = {
    "auc": quality.auc,
    "sensitivity": quality.sensitivity,
    "specificity": quality.specificity,
    "sensitivity_at_specificity_95": quality.sensitivity_at_specificity,
    "f2": quality.f2,
    "ece": quality.expected_calibration_error,
}
SIZES_MM = (0.0, 4.0, 6.0, 9.0, 100.0)
CONTRASTS = (0.0, 60.0, 100.0, 150.0, 256.0)


def _one(task: tuple[int, ImageInput]) -> tuple[npt.NDArray[np.float32], int, Stratum]:
    seed, spec = task
    cv2.setNumThreads(1)
    phantom = draw(seed)
    return transform(phantom.image, spec).tensor, phantom.label, phantom.stratum


def score(package: Path, count: int, batch: int = 16) -> tuple[quality.Labels, quality.Scores, list[Stratum]]:
    """Labels, P(stone) and facts of `count` held-out phantoms, drawn in parallel and run through the served graph."""
    spec, cores = read_image_card(package / "card.toml").input, len(os.sched_getaffinity(0))
    backend = OnnxBackend(package / "predict.onnx", threads=cores)
    labels: list[int] = []
    scores: list[float] = []
    strata: list[Stratum] = []

    def batches(items: Iterator[Any]) -> Iterator[list[Any]]:
        held: list[Any] = []
        for item in items:
            held.append(item)
            if len(held) == batch:
                yield held
                held = []
        if held:
            yield held

    with ProcessPoolExecutor(cores) as pool, tqdm(total=count, desc="score", unit="phantom") as bar:
        for items in batches(pool.map(_one, ((TEST + index, spec) for index in range(count)), chunksize=batch)):
            logits = backend.run(np.stack([tensor for tensor, _, _ in items])).logits
            scores += softmax(logits)[:, 1].tolist()
            labels += [label for _, label, _ in items]
            strata += [facts for _, _, facts in items]
            bar.update(len(items))
    backend.close()
    return np.array(labels), np.array(scores), strata


def by_stratum(labels: quality.Labels, scores: quality.Scores, strata: list[Stratum]) -> dict[str, dict[str, Any]]:
    """AUC within each stratum. By size and contrast: the stones of that bin against every phantom without one."""
    rows: dict[str, dict[str, Any]] = {}

    def add(name: str, chosen: npt.NDArray[np.bool_]) -> None:
        positives = int(labels[chosen].sum())
        if 0 < positives < int(chosen.sum()):
            area = round(quality.auc(labels[chosen], scores[chosen]), 4)
            rows[name] = {"auc": area, "positives": positives, "negatives": int(chosen.sum()) - positives}

    for fact in ("view", "phase", "confounder", "kernel", "kidneys"):
        values = np.array([getattr(each, fact) for each in strata])
        for value in sorted(set(values)):
            add(f"{fact}={value}", values == value)
    for fact, edges, unit in (("stone_diameter_mm", SIZES_MM, "mm"), ("stone_contrast", CONTRASTS, "grey")):
        values = np.array([getattr(each, fact) for each in strata])
        for low, high in itertools.pairwise(edges):
            inside = (values >= low) & (values < high) & (labels == 1)
            add(f"{fact}={low:g}-{high:g} {unit}", inside | (labels == 0))
    return rows


def plot(labels: quality.Labels, scores: quality.Scores, figures: dict[str, Any], path: Path) -> None:
    """ROC curve and reliability diagram side by side."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from sklearn.calibration import calibration_curve
    from sklearn.metrics import roc_curve

    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4.6), layout="constrained")
    left.plot(*roc_curve(labels, scores)[:2], color="#0b6e99")
    left.plot([0, 1], [0, 1], ":", color="grey")
    left.set(xlabel="1 - specificity", ylabel="sensitivity", title=f"ROC, AUC {figures['auc']:.4f}", aspect="equal")
    observed, mean = calibration_curve(labels, scores, n_bins=15)
    right.plot(mean, observed, "o-", color="#0b6e99")
    right.plot([0, 1], [0, 1], ":", color="grey")
    right.set(
        xlabel="mean P(stone)", ylabel="observed rate", title=f"Calibration, ECE {figures['ece']:.4f}", aspect="equal"
    )
    figure.suptitle(f"kidney-stone on {len(labels)} held-out synthetic phantoms (not real CT)")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110, metadata={"Software": None})
    plt.close(figure)


@click.command()
@click.option("--package", default=PACKAGE, type=click.Path(path_type=Path, exists=True), help="Folder of the model.")
@click.option("--count", default=4000, show_default=True, help="Held-out phantoms.")
@click.option(
    "--out", default=None, type=click.Path(path_type=Path), help="Folder of report.json; the package by default."
)
@click.option("--plot-to", default=Path("docs/kidney-stone-quality.png"), type=click.Path(path_type=Path))
def report(package: Path, count: int, out: Path | None, plot_to: Path) -> None:
    """Score held-out phantoms and write the figures and plots."""
    labels, scores, strata = score(package, count)
    figures: dict[str, Any] = {}
    for name, figure in tqdm(FIGURES.items(), desc="bootstrap"):
        figures[name] = round(figure(labels, scores), 4)
        figures[f"{name}_ci95"] = quality.interval(figure, labels, scores)
    figures |= {"n": count, "positives": int(labels.sum()), "threshold": 0.5, "data": "synthetic phantoms"}
    measured = conditions(f"python -m training.kidney_stone.report --count {count}")
    written = write_report(out or package, figures, measured, strata=by_stratum(labels, scores, strata))
    plot(labels, scores, figures, plot_to)
    click.echo(json.dumps(written, indent=2))


if __name__ == "__main__":
    report()
