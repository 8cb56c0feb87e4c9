"""Norms that are folded into convolutions change neither what the network in training gives nor its gradients."""

import pytest
import torch
from torch import nn

from training.kidney_stone.dataset import Sample
from training.kidney_stone.trainee import Trainee, loss_of


@pytest.fixture
def trainee() -> Trainee:
    """Return a network with random weights and random statistics of its norms."""
    torch.manual_seed(0)
    trainee = Trainee()
    for module in trainee.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            nn.init.uniform_(module.running_mean, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            nn.init.uniform_(module.weight, 0.7, 1.3)
            nn.init.uniform_(module.bias, -0.1, 0.1)
    trainee.set_training(freeze_norms=True)
    return trainee


def loss_and_gradients(trainee: Trainee) -> tuple[float, dict[str, torch.Tensor]]:
    stream = torch.Generator().manual_seed(1)
    image = torch.randn(2, 3, 64, 64, generator=stream)
    sample = Sample(image, (torch.rand(2, 64, 64, generator=stream) < 0.01).float(), torch.tensor([0, 1]))
    trainee.zero_grad()
    logits, maps = trainee(image)
    loss = loss_of(logits, maps, sample)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: value.grad.clone() for name, value in trainee.named_parameters() if value.grad is not None}
    return float(loss.detach()), gradients


def test_folded_norms_give_the_same_loss_and_gradients(trainee: Trainee) -> None:
    folded_loss, folded = loss_and_gradients(trainee)
    trainee._folds_norms = False
    plain_loss, plain = loss_and_gradients(trainee)
    assert folded_loss == pytest.approx(plain_loss, rel=1e-5)
    assert folded.keys() == plain.keys() and any("bn2.weight" in name for name in plain)
    for name, gradient in plain.items():
        assert torch.allclose(folded[name], gradient, rtol=1e-3, atol=1e-5 * float(gradient.abs().max()) + 1e-7), name


def test_bfloat16_changes_gradients_by_little(trainee: Trainee) -> None:
    exact_loss, exact = loss_and_gradients(trainee)
    trainee.pointwise = torch.bfloat16
    rounded_loss, rounded = loss_and_gradients(trainee)
    assert rounded_loss == pytest.approx(exact_loss, rel=0.02) and rounded_loss != exact_loss
    one, other = (torch.cat([gradients[name].flatten() for name in exact]) for gradients in (exact, rounded))
    assert float(nn.functional.cosine_similarity(one, other, dim=0)) > 0.99
