"""A small network with all that the compiler has to support.

It has strided, grouped and depthwise convolutions, squeeze-and-excitation, batch norms and in-place activations.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explain.compile import Stages

SIZE = (32, 48)
CLASSES = 3


class SqueezeExcitation(nn.Module):
    """Squeeze-and-excitation (Hu et al. 2018)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, 4, 1), nn.Conv2d(4, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.up(F.silu(self.down(x.mean((2, 3), keepdim=True)))))


class Residual(nn.Module):
    """x + a grouped convolution of x."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1, groups=2), nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        return x + F.silu(self.norm(self.conv(x)))


class SmallNet(nn.Module):
    """(N, 3, 32, 48) → logits (N, 3), seeded, with batch norms that have seen data."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU(inplace=True))
        self.early = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.middle = nn.Sequential(
            nn.Conv2d(16, 16, 5, 2, 2, groups=16, bias=False),
            nn.BatchNorm2d(16),
            nn.SiLU(inplace=True),
            SqueezeExcitation(16),
        )
        self.late = nn.Sequential(Residual(16), nn.Conv2d(16, 24, 3, 1, 0), nn.BatchNorm2d(24), nn.GELU())
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES))
        self.train()
        with torch.no_grad():
            for _ in range(5):
                self(torch.randn(8, 3, *SIZE))
        self.eval()

    def stages(self) -> Stages:
        return [(name, getattr(self, name)) for name in ("stem", "early", "middle", "late", "head")]

    def forward(self, image: Tensor) -> Tensor:
        for _, stage in self.stages():
            image = stage(image)
        return image
