"""The report of the weights that ship, on phantoms that lie on disk as real slices do."""

import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from sklearn.metrics import fbeta_score, roc_auc_score

from models.card import read_image_card
from models.package import GRAPH
from models.registry import package_folder
from preprocessing.prepare import prepare
from tests.training.kidney_stone.folder import write_scans
from training.kidney_stone.phantom import draw
from training.kidney_stone.report import report
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import split_slices

PACKAGE = package_folder("kidney-stone")


def write_boxed(folder: Path) -> Path:
    """Write a phantom with a stone, boxed, and one that nobody has boxed."""
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    for number in (0, 1):
        cv2.imwrite(str(folder / "images" / f"{number}.jpg"), draw(950_000_000 + number, label=1).image)
    (folder / "labels" / "0.txt").write_text("0 0.5 0.5 1 1\n")
    return folder


def test_figures_are_of_what_the_graph_answers_on_the_scans_that_are_tested_on(tmp_path: Path) -> None:
    data, boxed = write_scans(tmp_path / "scans"), write_boxed(tmp_path / "boxed")
    options = {"--data": data, "--boxed": boxed, "--count": 8, "--out": tmp_path, "--plot-to": tmp_path / "plot.png"}
    result = CliRunner().invoke(report, [str(part) for pair in options.items() for part in pair])
    assert result.exit_code == 0, result.output
    metrics = json.loads((tmp_path / "report.json").read_text("utf-8"))["metrics"]

    card = read_image_card(PACKAGE / "card.toml")
    held_out = split_slices(read_slices(data)).held_out
    tensors = np.stack([prepare(item.path.read_bytes(), card.limits, card.input).tensor for item in held_out])
    logits = ort.InferenceSession(PACKAGE / GRAPH).run(None, {"image": tensors})[0]
    scores = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    labels = [item.label for item in held_out]
    assert metrics["n"] == len(held_out) and metrics["positives"] == sum(labels) > 0
    assert metrics["auc"] == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)
    assert metrics["f2"] == pytest.approx(fbeta_score(labels, scores >= card.threshold, beta=2), abs=1e-4)
    assert metrics["other_hospital"]["n"] == 1
    assert metrics["other_hospital"]["pointing_game"] == 1.0  # the box is the whole picture
    assert (tmp_path / "plot.png").stat().st_size > 10_000
