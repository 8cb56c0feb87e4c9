"""A network with an early exit (Teerapittayanon et al. 2016): a small head in its middle answers if it is sure."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from explain.compile import HasStages, split
from models.card import ImageCard


class ExitHead(nn.Module):
    """The classifier of an early exit: four 3x3 convolutions, the first with stride 2, and one linear layer.

    The linear layer gets the mean and the maximum of each channel after the convolutions, and the maximum of a map of
    where the positive label is seen. A further convolution makes that map, and training compares it with masks.

    Args:
        features: number of channels of the layer that the head looks at.
        classes: number of logits.
        width: number of channels of the convolutions.
    """

    def __init__(self, features: int, classes: int, width: int = 96) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(features)
        self.convolutions = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, width, 3, stride, padding=1, bias=False), nn.BatchNorm2d(width), nn.SiLU())
            for before, stride in ((features, 2), (width, 1), (width, 1), (width, 1))
        )
        self.map = nn.Conv2d(width, 1, 1)
        self.drop = nn.Dropout(0.2)
        self.logits = nn.Linear(2 * width + 1, classes)

    def forward(self, features: Tensor) -> Tensor:
        """Return logits (N, classes) of features (N, features, h, w), float32."""
        return self.logits_and_map(features)[0]

    def logits_and_map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits (N, classes), and the map's logits (N, 1, h / 2, w / 2), rounded up."""
        first, *others = self.convolutions
        hidden: Tensor = first(self.norm(features))
        for convolution in others:
            hidden = hidden + convolution(hidden)
        map_logits: Tensor = self.map(hidden)
        pooled = torch.cat([hidden.mean((2, 3)), hidden.amax((2, 3)), map_logits.amax((2, 3))], 1)
        logits: Tensor = self.logits(self.drop(pooled))
        return logits, map_logits


class EarlyExitNetwork(nn.Module):
    """A network that computes the layers after its early exit only if the head is not sure.

    Parameters are named as the network's own, and the head's `exit.*`, so that an exported graph shares the weights
    file of the plain network.

    Args:
        network: the plain network; it is copied.
        head: the classifier of the exit.
        card: says at which layer the exit is, and when the head is sure.

    Raises:
        NotCompilable: the network cannot be cut at the card's layer.
        ValueError: the card names no early exit.
    """

    def __init__(self, network: nn.Module, head: ExitHead, card: ImageCard) -> None:
        super().__init__()
        if card.early_exit is None or card.positive_label is None:
            raise ValueError(f"the card of {card.name} names no early exit")
        network = copy.deepcopy(network).eval().requires_grad_(False)
        trunk, tail = split(cast(HasStages, network).stages(), card.early_exit.layer)
        for name, child in network.named_children():
            self.add_module(name, child)
        self.exit = head.eval().requires_grad_(False)
        self._trunk, self._tail = (trunk,), (tail,)  # tuples: their parameters are registered above already
        self._limits, self._positive = card.early_exit, card.labels.index(card.positive_label)
        self._temperature = card.temperature
        self.eval()

    def trunk(self, image: Tensor) -> Tensor:
        """Return the features that the head gets, (1, channels, h, w), of one picture (1, 3, H, W)."""
        features: Tensor = self._trunk[0](image)
        return features

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (1, classes) of one picture (1, 3, H, W), float32, and whether the head gave them, bool."""
        features = self.trunk(image)
        early: Tensor = self.exit(features)
        tempered = early if self._temperature is None else early / self._temperature
        probability = tempered.softmax(1)[0, self._positive]
        sure = (probability < self._limits.clear_below) | (probability >= self._limits.clear_from)

        def head_logits(_: Tensor, early: Tensor) -> Tensor:
            return early.clone()

        def network_logits(features: Tensor, _: Tensor) -> Tensor:
            logits: Tensor = self._tail[0](features)
            return logits

        return torch.cond(sure, head_logits, network_logits, (features, early)), sure
