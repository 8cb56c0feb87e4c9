"""Judge the kidney-stone weights that ship: `python -m training.kidney_stone.report --help`.

It runs the graphs that are served (the rounded weights, in ONNX Runtime) on held-out phantoms. Where `--data` names
real slices it judges first on those that no training and no choice has seen, and on another hospital's slices with
boxed stones. It writes `report.json` beside the card, and the ROC curve and the calibration plot into docs/.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
from tqdm import tqdm

from backends.onnx import OnnxBackend
from explain.onnx import OnnxExplainer
from models.card import ImageCard, read_image_card
from models.package import EXPLAIN, GRAPH
from models.registry import package_folder
from postprocessing.classification import card_probabilities
from preprocessing.transform import transform
from runners.cores import available_cores
from training import metrics
from training.kidney_stone.boxed import boxed_figures, read_boxed
from training.kidney_stone.judging import ScoredSlices, auc_without_each_scan, measure, strata
from training.kidney_stone.phantom_figures import auc_by_stratum, metrics_at, phantom_figures
from training.kidney_stone.phantom_figures import score as score_phantoms
from training.kidney_stone.quality_plot import plot
from training.kidney_stone.scans import shrink
from training.kidney_stone.shortcuts import histogram_auc, neighbour_auc
from training.kidney_stone.slice_folders import read_picture, read_slices
from training.kidney_stone.slices import Slice, split_slices
from training.report import write_report

PACKAGE = package_folder("kidney-stone")
DATA = "CT KIDNEY DATASET (Islam et al. 2022), scans that no training and no choice has seen"
BATCH = 16


def score_slices(graph: Path, slices: list[Slice], card: ImageCard) -> ScoredSlices:
    """Score real slices with the graph that is served, transformed as serving does."""
    backend = OnnxBackend(graph, threads=available_cores())
    scores = list[float]()
    for first in tqdm(range(0, len(slices), BATCH), desc="slices", unit="batch"):
        pictures = [np.dstack([read_picture(item.path)] * 3) for item in slices[first : first + BATCH]]
        logits = backend.run(np.stack([transform(picture, card.input).tensor for picture in pictures])).logits
        scores += card_probabilities(logits, card)[:, 1].tolist()
    backend.close()
    return ScoredSlices(slices, np.array(scores))


def shortcut_figures(slices: list[Slice], train: list[Slice], test: list[Slice]) -> dict[str, Any]:
    """Return what is scored without looking at a stone: by the histogram of grey values, and by copying neighbours."""
    pictures = {item.path: read_picture(item.path) for item in tqdm(slices, desc="read", unit="slice")}
    labels_of = {name: np.array([item.label for item in part]) for name, part in (("train", train), ("test", test))}
    histogram = histogram_auc(
        [pictures[item.path] for item in train],
        labels_of["train"],
        [pictures[item.path] for item in test],
        labels_of["test"],
    )
    vectors = np.stack([shrink(pictures[item.path]) for item in slices])
    labels, scans = np.array([item.label for item in slices]), np.array([item.scan for item in slices])
    copied = {split: neighbour_auc(vectors, labels, scans, by_group=split == "scan") for split in ("picture", "scan")}
    return {
        "grey_value_histogram_auc": round(histogram, 4),
        "nearest_picture_auc_split_by_picture": round(copied["picture"], 4),
        "nearest_picture_auc_split_by_scan": round(copied["scan"], 4),
    }


def real_figures(
    card: ImageCard, package: Path, slices: list[Slice], threshold: float
) -> tuple[ScoredSlices, dict[str, Any]]:
    """Return the scored test slices and their figures, with strata and short cuts."""
    split = split_slices(slices)
    scored = score_slices(package / GRAPH, split.held_out, card)
    measured = measure(metrics_at(threshold), scored) | {"threshold": threshold, "data": DATA}
    trained_on = score_slices(package / GRAPH, split.train, card)
    short_cuts = shortcut_figures(slices, split.train, split.held_out)
    short_cuts["auc_on_scans_trained_on"] = round(metrics.auc(trained_on.labels, trained_on.scores), 4)
    return scored, {
        **measured,
        "strata": strata(scored, threshold),
        "without_scan": auc_without_each_scan(scored),
        "short_cuts": short_cuts,
    }


@click.command()
@click.option("--data", type=click.Path(path_type=Path), help="Folder of real slices, to be judged on first of all.")
@click.option("--boxed", type=click.Path(path_type=Path), help="Folder of another hospital's slices with boxed stones.")
@click.option("--package", default=PACKAGE, type=click.Path(path_type=Path, exists=True), help="Folder of the model.")
@click.option("--count", default=3000, show_default=True, help="Held-out phantoms.")
@click.option(
    "--out", default=None, type=click.Path(path_type=Path), help="Folder of report.json; the package by default."
)
@click.option("--plot-to", default=Path("docs/kidney-stone-quality.png"), type=click.Path(path_type=Path))
def report(data: Path | None, boxed: Path | None, package: Path, count: int, out: Path | None, plot_to: Path) -> None:
    """Score test slices, boxed slices and phantoms, and write the report and the plot."""
    card = read_image_card(package / "card.toml")
    threshold = card.threshold or 0.5
    if card.explain is None:
        raise click.ClickException("The card names no layer to explain.")
    slices, boxed_slices = read_slices(data) if data else [], read_boxed(boxed) if boxed else []
    labels, scores, phantoms = score_phantoms(package, count)
    measured = phantom_figures(labels, scores, threshold) | {"threshold": threshold, "data": "synthetic phantoms"}
    sections: dict[str, Any] = {"strata": auc_by_stratum(labels, scores, phantoms)}
    command, title = f"python -m training.kidney_stone.report --count {count}", "held-out phantoms"
    if slices:
        scored, real = real_figures(card, package, slices, threshold)
        sections = {name: real.pop(name) for name in ("without_scan", "short_cuts")}
        sections["phantom_strata"] = auc_by_stratum(labels, scores, phantoms)
        if boxed_slices:
            explainer = OnnxExplainer(package / EXPLAIN, available_cores())
            real["other_hospital"] = boxed_figures(explainer, card.explain, boxed_slices, card, threshold)
        measured = real | {"phantoms": measured}
        labels, scores = scored.labels, scored.scores
        command += " --data DIR" + (" --boxed DIR" if boxed else "")
        title = "test slices of the CT KIDNEY DATASET"
    written = write_report(out or package, measured, command, **sections)
    plot(labels, scores, title, plot_to)
    click.echo(json.dumps(written, indent=2))


if __name__ == "__main__":
    report()
