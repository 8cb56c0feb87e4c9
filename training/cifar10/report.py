"""Measure the cifar10 package on the test pictures of CIFAR-10: `python -m training.cifar10.report --help`.

It runs what is served: the transform of the card and the graph of the package, with the weights as rounded, in ONNX
Runtime. It writes `report.json` beside the card.
"""

import json
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binomtest
from tqdm import tqdm

from backends.onnx import OnnxBackend
from models.card import read_image_card
from models.package import GRAPH
from models.registry import package_folder
from postprocessing.classification import card_probabilities
from preprocessing.transform import transform
from runners.cores import available_cores
from training import metrics
from training.cifar10.data import Pictures, read
from training.report import write_report

PACKAGE = package_folder("cifar10")
BATCH = 100


def score(package: Path, pictures: Pictures) -> npt.NDArray[np.float64]:
    """Run pictures through the graph that is served, and return their probabilities (N, 10)."""
    card = read_image_card(package / "card.toml")
    backend = OnnxBackend(package / GRAPH, threads=available_cores())
    chunks = tqdm(torch.split(pictures.images, BATCH), desc="score", unit="batch")
    logits = [
        backend.run(np.stack([transform(image.numpy(), card.input).tensor for image in chunk])).logits
        for chunk in chunks
    ]
    backend.close()
    return card_probabilities(np.concatenate(logits), card)


def share(correct: npt.NDArray[np.bool_]) -> tuple[float, list[float]]:
    """Return the share of True with its 95 % interval [low, high] (Wilson 1927)."""
    interval = binomtest(int(correct.sum()), len(correct)).proportion_ci(method="wilson")
    return round(float(correct.mean()), 4), [round(float(interval.low), 4), round(float(interval.high), 4)]


def measure(probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]) -> dict[str, Any]:
    """Return top-1 accuracy with its interval, and the expected calibration error of the probability of the answer.

    Args:
        probabilities: shape (N, K); a row adds up to 1.
        labels: shape (N,), the index of the true label.
    """
    correct = probabilities.argmax(1) == labels
    top1, interval = share(correct)
    ece = metrics.expected_calibration_error(correct.astype(np.int64), probabilities.max(1))
    return {"top1": top1, "top1_ci95": interval, "ece": round(ece, 4), "n": len(labels)}


def by_label(
    names: tuple[str, ...], probabilities: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> dict[str, dict[str, Any]]:
    """Return for each label the share of its pictures that get it, with an interval, and the most frequent mistake."""
    predicted, rows = probabilities.argmax(1), {}
    for index, name in enumerate(names):
        answers = predicted[labels == index]
        recall, interval = share(answers == index)
        mistakes = np.bincount(answers[answers != index], minlength=len(names))
        rows[name] = {"recall": recall, "recall_ci95": interval, "n": len(answers)}
        if mistakes.any():
            rows[name] |= {"mostly_mistaken_for": names[int(mistakes.argmax())], "times": int(mistakes.max())}
    return rows


@click.command()
@click.option("--data", required=True, type=click.Path(path_type=Path), help="test/LABEL/*.jpg, or the batches.")
@click.option("--package", default=PACKAGE, type=click.Path(path_type=Path, exists=True), help="Folder of the model.")
@click.option("--out", default=None, type=click.Path(path_type=Path), help="Folder of report.json, else the package.")
def report(data: Path, package: Path, out: Path | None) -> None:
    """Score the test pictures and write the report."""
    card = read_image_card(package / "card.toml")
    pictures = read(data, "test", card)
    probabilities, labels = score(package, pictures), pictures.labels.numpy()
    measured = measure(probabilities, labels) | {"data": "CIFAR-10 test pictures"}
    labelled = by_label(card.labels, probabilities, labels)
    written = write_report(out or package, measured, "python -m training.cifar10.report", labels=labelled)
    click.echo(json.dumps(written, indent=2))


if __name__ == "__main__":
    report()
