"""Training with real slices goes on where it was killed, and the command says where to get the slices."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from models.architectures.efficientnet import EfficientNetB4Head
from tests.training.kidney_stone.folder import write_scans
from training.kidney_stone.finetune import FROZEN_BLOCKS, finetune

ROOT = Path(__file__).resolve().parents[3]


def command(data: Path, start_from: Path, out: Path) -> list[str]:
    options = "--steps 2 --threads 2 --workers 0 --device cpu --save-every 1 --validate-every 2"
    paths = ["--data", str(data), "--start-from", str(start_from), "--out", str(out)]
    return [sys.executable, "-m", "training.kidney_stone.finetune", *options.split(), *paths]


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    data, start_from = write_scans(tmp_path / "slices"), tmp_path / "start.pth"
    torch.manual_seed(0)
    start = EfficientNetB4Head(2).state_dict()
    torch.save(start, start_from)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    finished = subprocess.run(command(data, start_from, whole), cwd=ROOT, check=True, capture_output=True, text=True)
    assert "Threshold for the card: 0." in finished.stdout
    killed = subprocess.Popen(
        command(data, start_from, broken), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while not (broken / "checkpoint.pt").exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    subprocess.run(command(data, start_from, broken), cwd=ROOT, check=True, capture_output=True)
    first, second = (torch.load(out / "best_model.pth", weights_only=True) for out in (whole, broken))
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    frozen = tuple(f"backbone.blocks.{block}." for block in range(FROZEN_BLOCKS))
    assert all(torch.equal(first[name], start[name]) for name in start if name.startswith(frozen))
    trained = f"backbone.blocks.{FROZEN_BLOCKS}.0.conv_pw.weight"
    assert not torch.equal(first[trained], start[trained])


def test_without_slices_the_command_says_where_to_get_them(tmp_path: Path) -> None:
    result = CliRunner().invoke(finetune, ["--data", str(tmp_path), "--start-from", str(ROOT / "README.md")])
    assert result.exit_code == 1 and "CT KIDNEY DATASET" in result.output and "Traceback" not in result.output
