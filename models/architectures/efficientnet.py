"""The architecture `efficientnet-b4-head`: EfficientNet-B4 with a two-layer head."""

from collections.abc import Callable
from typing import Any

import timm
from torch import Tensor, nn

from explain.compile import Stages
from models.card import ASSUMED_HEAD_ACTIVATION, HeadActivation

ACTIVATIONS: dict[HeadActivation, Callable[[], nn.Module]] = {"gelu": nn.GELU, "relu": nn.ReLU, "silu": nn.SiLU}


class EfficientNetB4Head(nn.Module):
    """timm's EfficientNet-B4 (Tan & Le 2019) without its classifier, then a two-layer head on the pooled features.

    Parameter names are `backbone.*` and `head.0` … `head.7`, so that a state_dict trained elsewhere with this
    layout loads as it is. Two classes make 18,471,242 parameters.

    Args:
        classes: number of logits.
        activation: between the head's two layers; it has no parameters, so that no state_dict tells which it was.
    """

    def __init__(self, classes: int, activation: HeadActivation = ASSUMED_HEAD_ACTIVATION) -> None:
        super().__init__()
        self.backbone: Any = timm.create_model("efficientnet_b4", pretrained=False, num_classes=0, global_pool="")
        features = 1792
        self.head = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.BatchNorm1d(features),
            nn.Dropout(0.4),
            nn.Linear(features, 512),
            ACTIVATIONS[activation](),
            nn.Dropout(0.3),
            nn.Linear(512, classes),
        )

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised pictures (N, 3, H, W), float32."""
        logits: Tensor = self.head(self.backbone.forward_features(image))
        return logits

    def stages(self) -> Stages:
        """Return the same network as named layers to be applied one after the other."""
        backbone = self.backbone
        return [
            ("backbone.conv_stem", backbone.conv_stem),
            ("backbone.bn1", backbone.bn1),
            *((f"backbone.blocks.{number}", block) for number, block in enumerate(backbone.blocks)),
            ("backbone.conv_head", backbone.conv_head),
            ("backbone.bn2", backbone.bn2),
            ("head", self.head),
        ]
