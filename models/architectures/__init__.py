"""The networks that cards name in `architecture`. Needs PyTorch; serving on a CPU never imports this package."""

from torch import nn

from errors import StoreError
from models.architectures.efficientnet import EfficientNetB4Head
from models.architectures.pyramidnet import PyramidNet
from models.architectures.tabular import Autoencoder, Mlp
from models.card import ASSUMED_HEAD_ACTIVATION, Card, ImageCard, RowCard


def build(card: Card) -> nn.Module:
    """Return the untrained network of a card, in training mode.

    Raises:
        StoreError: the model came as an ONNX graph, so there is no network to build.
    """
    match card:
        case ImageCard(architecture="efficientnet-b4-head"):
            return EfficientNetB4Head(len(card.labels), card.head_activation or ASSUMED_HEAD_ACTIVATION)
        case ImageCard(architecture="pyramidnet-110"):
            return PyramidNet(len(card.labels))
        case RowCard(architecture="mlp"):
            return Mlp(len(card.input.features), card.hidden, len(card.labels))
        case RowCard(architecture="sensor-autoencoder"):
            return Autoencoder(len(card.input.features), card.hidden)
    raise StoreError(f"{card.name} came as an ONNX graph: there is no PyTorch network of it.")
