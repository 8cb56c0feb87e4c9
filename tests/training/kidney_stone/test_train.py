"""Training is deterministic, and an interrupted one ends with the same weights as one without interruption."""

import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from models.architectures.efficientnet import EfficientNetB4Head
from training.kidney_stone.calibration import calibrate
from training.kidney_stone.dataset import Sample
from training.kidney_stone.trainee import Trainee, loss_of

ROOT = Path(__file__).resolve().parents[3]


def command(out: Path) -> list[str]:
    options = (
        "--steps 3 --batch 2 --threads 2 --workers 0 --device cpu --validate-every 1 --validate-on 8 --calibrate-on 8"
    )
    return [sys.executable, "-m", "training.kidney_stone.train", *options.split(), "--out", str(out)]


def weights(out: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(out / "best_model.pth", weights_only=True)
    return state


@pytest.mark.slow
def test_a_killed_training_goes_on_and_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    subprocess.run(command(whole), cwd=ROOT, check=True, capture_output=True)
    killed = subprocess.Popen(command(broken), cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (broken / "checkpoint.pt").exists() and killed.poll() is None:
        time.sleep(0.05)
    killed.kill()
    killed.wait()
    subprocess.run(command(broken), cwd=ROOT, check=True, capture_output=True)
    first, second = weights(whole), weights(broken)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_calibration_turns_scores_into_rates_and_changes_no_ranking() -> None:
    class Score(nn.Module):
        """A network whose log odds are twice too large and too high by 3."""

        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Sequential(*(nn.Identity() for _ in range(7)), nn.Linear(1, 2))
            self.head[7].weight.data, self.head[7].bias.data = torch.tensor([[-1.0], [1.0]]), torch.tensor([0.0, 3.0])

        def forward(self, score: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.head(score)
            return logits

    torch.manual_seed(5)
    truth = torch.randn(4000, 1)
    label = (torch.rand(4000) < torch.sigmoid(truth[:, 0])).long()  # so the score itself is the log odds
    batches = [Sample(truth[at : at + 500], torch.zeros(0), label[at : at + 500]) for at in range(0, 4000, 500)]
    network = Score()
    before = network(truth).softmax(1)[:, 1]
    scale, shift = calibrate(network, batches, torch.device("cpu"))
    assert scale == pytest.approx(0.5, abs=0.05) and shift == pytest.approx(-1.5, abs=0.2)
    after = network(truth).softmax(1)[:, 1]
    assert torch.allclose(after, torch.sigmoid(truth[:, 0]), atol=0.05)
    order = truth[:, 0].argsort()
    assert (before[order].diff() >= -1e-6).all() and (after[order].diff() >= -1e-6).all()


def test_the_shipped_network_has_no_auxiliary_part() -> None:
    trainee = Trainee()
    assert set(trainee.network.state_dict()) == set(EfficientNetB4Head(2).state_dict())


def test_training_from_weights_starts_with_the_gradient_of_the_label_alone() -> None:
    torch.manual_seed(3)
    trainee = Trainee()
    trained = {name: value.clone() for name, value in EfficientNetB4Head(2).state_dict().items()}
    trainee.start_from(trained)
    trainee.eval()
    image, label = torch.randn(2, 3, 64, 64), torch.tensor([0, 1])
    mask = torch.zeros(2, 64, 64)
    mask[1, 20:30, 20:30] = 1.0
    logits, maps = trainee(image)
    parameters = list(trainee.network.parameters())
    actual = torch.autograd.grad(loss_of(logits, maps, Sample(image, mask, label)), parameters, retain_graph=True)
    expected = torch.autograd.grad(nn.functional.cross_entropy(logits, label), parameters)
    assert all(torch.equal(*pair) for pair in zip(actual, expected, strict=True))
    assert all(torch.equal(trainee.network.state_dict()[name], value) for name, value in trained.items())


def test_the_auxiliary_maps_are_those_of_the_network_itself() -> None:
    torch.manual_seed(0)
    trainee = Trainee().eval()
    image = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        logits, maps = trainee(image)
        assert torch.allclose(logits, trainee.network(image), atol=1e-5)
    assert [tuple(map_.shape) for map_ in maps] == [(2, 1, 28, 28), (2, 1, 14, 14), (2, 1, 7, 7)]
