"""The network of `efficientnet-b4-head` has the layers and the parameter names that its checkpoints have."""

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
