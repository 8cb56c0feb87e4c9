"""The report of cifar10: figures solved on paper, and a run of an exported package on drawings."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from export.onnx import export_package
from models.architectures.pyramidnet import PyramidNet
from models.checkpoint import Checkpoint
from models.goldens import golden_inputs
from tests.conftest import ROOT
from training.cifar10.report import by_label, measure, report

PACKAGE = ROOT / "models" / "cifar10"


def test_accuracy_calibration_and_mistakes_of_four_pictures() -> None:
    probabilities = np.array([[0.8, 0.1, 0.1], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8]])
    labels = np.array([0, 1, 1, 2])
    measured = measure(probabilities, labels)
    assert measured["top1"] == 0.75 and measured["n"] == 4
    assert measured["ece"] == pytest.approx(0.05)  # always 0.8 sure, right in three of four
    low, high = measured["top1_ci95"]
    assert (low, high) == pytest.approx((0.3006, 0.9544), abs=1e-4)  # Wilson's formula for 3 of 4
    rows = by_label(("cat", "dog", "frog"), probabilities, labels)
    assert rows["cat"]["recall"] == rows["frog"]["recall"] == 1.0 and "times" not in rows["cat"]
    assert rows["dog"]["recall"] == 0.5 and rows["dog"]["n"] == 2
    assert (rows["dog"]["mostly_mistaken_for"], rows["dog"]["times"]) == ("cat", 1)


def test_a_package_is_scored_as_it_is_served(data: Path, tmp_path: Path) -> None:
    torch.manual_seed(2)
    weights = PyramidNet().state_dict()
    export_package(PACKAGE / "card.toml", Checkpoint(weights, {}), golden_inputs(PACKAGE), tmp_path / "package")
    result = CliRunner().invoke(report, ["--data", str(data), "--package", str(tmp_path / "package")])
    assert result.exit_code == 0, result.output
    written = json.loads((tmp_path / "package" / "report.json").read_text())
    assert written["metrics"]["n"] == 20 and written["metrics"]["data"] == "CIFAR-10 test pictures"
    counted = sum(row["recall"] * row["n"] for row in written["labels"].values())
    assert counted / 20 == pytest.approx(written["metrics"]["top1"])
