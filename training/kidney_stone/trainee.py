"""The network in training, with auxiliary mask predictors beside it, and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.architectures.efficientnet import EfficientNetB4Head
from training.kidney_stone.dataset import Sample
from training.kidney_stone.folded import run_stage

TAPS = {2: 56, 4: 160, 6: 448}
"""Blocks with an auxiliary mask predictor, and how many channels each block has."""


class Trainee(nn.Module):
    """The network that is shipped and, beside it, the auxiliary mask predictors that are not.

    Attributes:
        pointwise: what pointwise convolutions are computed in while the norms are frozen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.pointwise, self._folds_norms = torch.float32, False
        self.network = EfficientNetB4Head(2)
        for module in self.network.head:
            if isinstance(module, nn.Dropout):
                module.p = 0.0
        self.aux = nn.ModuleDict({str(block): nn.Conv2d(width, 1, 1) for block, width in TAPS.items()})

    def start_from(self, weights: dict[str, Tensor]) -> None:
        """Load a trained network, and set the mask predictors to zero, so that at first only the label moves it."""
        self.network.load_state_dict(weights)
        for parameter in self.aux.parameters():
            nn.init.zeros_(parameter)

    def forward(self, image: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Compute the logits of a class and of masks.

        Args:
            image: shape (N, 3, h, w), float32.

        Returns:
            Logits (N, 2), and for each of `TAPS` the mask's logits (N, 1, h / s, w / s), with s the block's stride.
        """
        backbone, maps = self.network.backbone, list[Tensor]()
        features = backbone.bn1(backbone.conv_stem(image))
        for number, stage in enumerate(backbone.blocks):
            features = run_stage(stage, features, self.pointwise) if self._folds_norms else stage(features)
            if number in TAPS:
                maps.append(self.aux[str(number)](features))
        return self.network.head(backbone.bn2(backbone.conv_head(features))), maps

    def set_training(self, *, freeze_norms: bool) -> None:
        """Switch to training mode; with `freeze_norms`, batch norms keep and use their running statistics."""
        self.train()
        for module in self.modules():
            if freeze_norms and isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                module.eval()
        self._folds_norms = freeze_norms


def loss_of(logits: Tensor, maps: list[Tensor], sample: Sample, *, label_smoothing: float = 0.0) -> Tensor:
    """Return the cross-entropy of the label plus, for each map, the binary cross-entropy of the mask.

    Mask pixels with a stone weigh 10 times as much as those without. An item whose mask is NaN, because nobody drew
    one, counts with its label alone.

    Args:
        logits: shape (N, 2).
        maps: the mask's logits at several strides, each of shape (N, 1, h, w).
        sample: what is true, with a leading axis N.
        label_smoothing: share of the label's probability that is spread over both classes (Szegedy et al. 2016).
    """
    loss = F.cross_entropy(logits, sample.label, label_smoothing=label_smoothing)
    weight = torch.tensor(10.0, device=logits.device)
    masked = ~sample.mask.flatten(1).isnan().any(1)
    if not masked.any():
        return loss
    for predicted in maps:
        target = F.adaptive_max_pool2d(sample.mask[masked][:, None], predicted.shape[-2:])
        loss = loss + F.binary_cross_entropy_with_logits(predicted[masked], target, pos_weight=weight)
    return loss
