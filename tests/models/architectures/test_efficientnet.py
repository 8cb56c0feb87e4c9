"""The network of `efficientnet-b4-head` has the layers and the parameter names that its checkpoints have."""

import numpy as np
import torch
from torch import nn

from models.architectures.efficientnet import EfficientNetB4Head
from models.card import read_card
from tests.conftest import SHIPPED


def test_the_network_is_the_one_on_the_card() -> None:
    network = EfficientNetB4Head(2)
    count = sum(parameter.numel() for parameter in network.parameters())
    assert count == read_card(SHIPPED / "card.toml").parameters == 18_471_242
    names = [name.split(".") for name in network.state_dict()]
    assert {name[0] for name in names} == {"backbone", "head"}
    assert {name[1] for name in names if name[0] == "head"} == {"2", "4", "7"}
    layers = ("AdaptiveAvgPool2d", "Flatten", "BatchNorm1d", "Dropout", "Linear", "GELU", "Dropout", "Linear")
    assert tuple(type(layer).__name__ for layer in network.head) == layers
    assert [layer.p for layer in network.head if isinstance(layer, nn.Dropout)] == [0.4, 0.3]


def test_the_head_has_the_activation_of_the_card() -> None:
    torch.manual_seed(2)
    network = EfficientNetB4Head(3, "relu").eval().requires_grad_(False)
    pooled = torch.randn(4, 1792)
    norm, first, last = network.head[2], network.head[4], network.head[7]
    assert isinstance(first, nn.Linear) and isinstance(last, nn.Linear)
    hidden = np.maximum(norm(pooled).numpy() @ first.weight.numpy().T + first.bias.numpy(), 0)
    expected = hidden @ last.weight.numpy().T + last.bias.numpy()
    assert np.allclose(network.head(pooled[..., None, None]).numpy(), expected, atol=1e-4)
