"""`mlp` and `sensor-autoencoder`: small networks on rows of numbers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

DROPOUT = 0.3


class Mlp(nn.Module):
    """Linear layers with ReLU and dropout between them.

    Parameters are `network.0`, `network.3`, `network.6`, …: each hidden layer takes three places.
    """

    def __init__(self, features: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((features, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden[-1], classes))

    def forward(self, row: Tensor) -> Tensor:
        """Transformed rows, (N, features) float32 → logits, (N, classes) float32."""
        logits: Tensor = self.network(row)
        return logits


class Autoencoder(nn.Module):
    """Squeezes a row through `hidden` (its last is the code) and back by the same widths.

    Linear layers with ReLU between them; none after the code and none after the reconstruction, which may be negative.
    Parameters are `encoder.0`, `encoder.2`, … and `decoder.0`, `decoder.2`, ….
    """

    def __init__(self, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder = _stack((features, *hidden))
        self.decoder = _stack((*reversed(hidden), features))

    def reconstruct(self, row: Tensor) -> Tensor:
        """Transformed rows, (N, features) float32 → what the code keeps of them, of the same shape."""
        reconstruction: Tensor = self.decoder(self.encoder(row))
        return reconstruction

    def forward(self, row: Tensor) -> Tensor:
        """Transformed rows, (N, features) float32 → squared error by feature, of the same shape."""
        return (row - self.reconstruct(row)).square()


def _stack(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
