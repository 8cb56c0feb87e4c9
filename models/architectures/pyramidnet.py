"""The architecture `pyramidnet-110`: PyramidNet with 110 layers for small pictures (Han et al. 2017)."""

import torch.nn.functional as F
from torch import Tensor, nn

from explain.compile import Stages

STEM, WIDENING, BLOCKS = 16, 48, 18
"""Channels of the stem, channels added over the whole network (the paper's α), and blocks in each of three groups."""


def width(block: int) -> int:
    """Return the number of channels after `block` blocks of the whole network: 16 after 0, 64 after 54 (eq. 3)."""
    return round(STEM + WIDENING * block / (3 * BLOCKS))


class Halve(nn.Module):
    """The mean over 2 x 2 pixels of pictures with even sides.

    It computes what nn.AvgPool2d(2) does, but its gradient consists of operators that ONNX has.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, C, h/2, w/2) of (N, C, h, w)."""
        channels, height, width = x.shape[1:]
        return x.reshape(-1, channels, height // 2, 2, width // 2, 2).mean((3, 5))


class Block(nn.Module):
    """A residual block that begins with a batch norm, without a ReLU before its first convolution or after the sum.

    It is the block of the paper's figure 6d. The shortcut has no parameters: it is padded with zeros to the number of
    output channels, and at stride 2 averaged over 2 x 2 pixels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = Halve() if stride == 2 else nn.Identity()
        self.added = outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, h/stride, w/stride) of (N, inputs, h, w)."""
        residual: Tensor = self.bn3(self.conv2(self.relu(self.bn2(self.conv1(self.bn1(x))))))
        return residual + F.pad(self.shortcut(x), (0, 0, 0, 0, 0, self.added))


class PyramidNet(nn.Module):
    """Additive PyramidNet-110 with α = 48 and basic blocks, for 32 x 32 pictures. Han et al. 2017, arXiv:1610.02915.

    Parameter names are `conv1`, `bn1`, `layer1.0.bn1` … `layer3.17.bn3`, `bn_out` and `fc_out`, so that a state_dict
    trained elsewhere with this layout loads as it is. Ten classes make 1,772,706 parameters.
    """

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, STEM, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(STEM)
        self.layer1, self.layer2, self.layer3 = (_group(number) for number in range(3))
        self.bn_out = nn.BatchNorm2d(width(3 * BLOCKS))
        self.fc_out = nn.Linear(width(3 * BLOCKS), classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, image: Tensor) -> Tensor:
        """Return logits (N, classes) of normalised pictures (N, 3, 32, 32), float32."""
        features = self.layer3(self.layer2(self.layer1(self.bn1(self.conv1(image)))))
        logits: Tensor = self.fc_out(F.relu(self.bn_out(features)).mean((2, 3)))
        return logits

    def stages(self) -> Stages:
        """Return the same network as named layers to be applied one after the other."""
        return [
            ("conv1", self.conv1),
            ("bn1", self.bn1),
            ("layer1", self.layer1),
            ("layer2", self.layer2),
            ("layer3", self.layer3),
            ("bn_out", self.bn_out),
            ("fc_out", nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), self.fc_out)),
        ]


def _group(number: int) -> nn.Sequential:
    first = number * BLOCKS
    strides = [2 if number > 0 and block == first else 1 for block in range(first, first + BLOCKS)]
    return nn.Sequential(
        *(Block(width(block), width(block + 1), stride) for block, stride in enumerate(strides, first))
    )
