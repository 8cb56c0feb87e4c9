"""An early exit (Teerapittayanon et al. 2016): a small head in a network's middle answers where it is sure."""

import copy
from typing import cast

import torch
from torch import Tensor, nn

from explain.compile import HasStages, split
from models.card import ImageCard


class ExitHead(nn.Module):
    """Four 3x3 convolutions on the features of a layer, the first at every other place, then one linear layer.

    The linear layer is given the means and maxima of what the convolutions see. On the way they make a map of where the
    positive label is to be seen, which training looks at; its maximum goes into the linear layer too.

    Args:
        features: channels of the layer.
        classes: logits.
        width: channels within.
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
        """(N, features, h, w) float32 → logits (N, classes) float32."""
        return self.logits_and_map(features)[0]

    def logits_and_map(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N, classes), and the map's logits (N, 1, h / 2, w / 2), rounded up."""
        first, *others = self.convolutions
        seen: Tensor = first(self.norm(features))
        for each in others:
            seen = seen + each(seen)
        where: Tensor = self.map(seen)
        pooled = torch.cat([seen.mean((2, 3)), seen.amax((2, 3)), where.amax((2, 3))], 1)
        logits: Tensor = self.logits(self.drop(pooled))
        return logits, where


class EarlyExit(nn.Module):
    """One picture (1, 3, H, W) float32 → its logits (1, classes) float32, and whether the head gave them, bool.

    The layers after the exit are computed only where the head is not sure. Parameters are named as the network's own,
    and the head's `exit.*`, so that an exported graph shares the weights file of the plain prediction.

    Raises:
        NotCompilable: the network cannot be cut at the card's layer.
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
        self.eval()

    def trunk(self, image: Tensor) -> Tensor:
        """What the head is given, (1, channels, h, w)."""
        features: Tensor = self._trunk[0](image)
        return features

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See the class."""
        features = self.trunk(image)
        early: Tensor = self.exit(features)
        chance = early.softmax(1)[0, self._positive]
        sure = (chance < self._limits.clear_below) | (chance >= self._limits.clear_from)

        def stop(_: Tensor, early: Tensor) -> Tensor:
            return early.clone()

        def go_on(features: Tensor, _: Tensor) -> Tensor:
            logits: Tensor = self._tail[0](features)
            return logits

        return torch.cond(sure, stop, go_on, (features, early)), sure
