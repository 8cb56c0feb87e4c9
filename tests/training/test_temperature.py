"""Temperature scaling against labels drawn at a temperature that is known."""

import pytest
import torch
from torch import nn

from training.temperature import divide_logits, fit_temperature


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature: float) -> None:
    torch.manual_seed(0)
    logits = torch.randn(20_000, 10) * 3
    labels = torch.multinomial((logits / temperature).softmax(1), 1)[:, 0]
    assert fit_temperature(logits, labels) == pytest.approx(temperature, rel=0.05)


def test_a_last_layer_divides_its_logits() -> None:
    torch.manual_seed(1)
    last, features = nn.Linear(4, 3), torch.randn(5, 4)
    before = last(features)
    divide_logits(last, 2.5)
    assert torch.allclose(last(features), before / 2.5, atol=1e-6)
