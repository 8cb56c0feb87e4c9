"""Training with real slices goes on where it was killed, and the command says where to get the slices."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from models.architectures.efficientnet import EfficientNetB4Head
from tests.training.kidney_stone.folder import SCANS, write_scans
from training import metrics
from training.kidney_stone.finetune import finetune
from training.kidney_stone.finetuning import FROZEN_BLOCKS
from training.kidney_stone.folds import read_scores
from training.kidney_stone.slice_folders import read_slices
from training.kidney_stone.slices import split_slices

ROOT = Path(__file__).resolve().parents[3]


def command(data: Path, start_from: Path, folds: Path, out: Path) -> list[str]:
    options = "--steps 2 --threads 2 --workers 0 --device cpu --save-every 1"
    paths = ["--data", str(data), "--start-from", str(start_from), "--folds", str(folds), "--out", str(out)]
    return [sys.executable, "-m", "training.kidney_stone.finetune", *options.split(), *paths]


@pytest.mark.slow
def test_folds_are_scored_and_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    data, start_from, folds = write_scans(tmp_path / "slices"), tmp_path / "start.pth", tmp_path / "folds"
    torch.manual_seed(0)
    start = EfficientNetB4Head(2).state_dict()
    torch.save(start, start_from)
    options = ["--steps", "1", "--threads", "2", "--workers", "0", "--device", "cpu"]
    paths = ["--data", str(data), "--start-from", str(start_from), "--out", str(folds)]
    folding = [sys.executable, "-m", "training.kidney_stone.folds", *options, *paths]
    subprocess.run(folding, cwd=ROOT, check=True, capture_output=True)
    judged = json.loads((folds / "folds.json").read_text())
    tested = split_slices(read_slices(data)).held_out
    assert judged["pooled"]["n"] == 2 * len(SCANS) - len(tested) == sum(fold["n"] for fold in judged["folds"])
    assert judged["pooled"]["auc"] == pytest.approx(metrics.auc(*read_scores(folds)), abs=1e-4)

    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ran = subprocess.run(command(data, start_from, folds, whole), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Threshold for the card: 0." in ran.stdout
    killed = subprocess.Popen(
        command(data, start_from, folds, broken), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (broken / "checkpoint.pt").exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    subprocess.run(command(data, start_from, folds, broken), cwd=ROOT, check=True, capture_output=True)
    first, second = (torch.load(out / "best_model.pth", weights_only=True) for out in (whole, broken))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    frozen = tuple(f"backbone.blocks.{block}." for block in range(FROZEN_BLOCKS))
    assert all(torch.equal(first[name], start[name]) for name in start if name.startswith(frozen))
    trained = f"backbone.blocks.{FROZEN_BLOCKS}.0.conv_pw.weight"
    assert not torch.equal(first[trained], start[trained])


def test_without_slices_the_command_says_where_to_get_them(tmp_path: Path) -> None:
    start_from, folds = ("--start-from", str(ROOT / "README.md")), ("--folds", str(tmp_path))
    result = CliRunner().invoke(finetune, ["--data", str(tmp_path), *start_from, *folds])
    assert result.exit_code == 1 and "CT KIDNEY DATASET" in result.output and "Traceback" not in result.output


def test_without_folds_the_command_asks_for_them(tmp_path: Path) -> None:
    data = write_scans(tmp_path / "slices")
    start_from, folds = ("--start-from", str(ROOT / "README.md")), ("--folds", str(tmp_path))
    result = CliRunner().invoke(finetune, ["--data", str(data), *start_from, *folds])
    assert result.exit_code == 1 and "make folds" in result.output and "fold-0.npz" in result.output
