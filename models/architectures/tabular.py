"""The architectures `mlp` and `sensor-autoencoder`: small networks for rows of numbers."""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

DROPOUT = 0.3


class Mlp(nn.Module):
    """A classifier of linear layers with ReLU and dropout between them.

    Parameters are `network.0`, `network.3`, `network.6`, …, since each hidden layer takes three places.
    """

    def __init__(self, features: int, hidden: Sequence[int], classes: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for before, after in pairwise((features, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.Dropout(DROPOUT)]
        self.network = nn.Sequential(*layers, nn.Linear(hidden[-1], classes))

    def forward(self, row: Tensor) -> Tensor:
        """Return logits (N, classes) of transformed rows (N, features), float32."""
        logits: Tensor = self.network(row)
        return logits


class Autoencoder(nn.Module):
    """A detector that reconstructs a row from a short code, and gives the squared error of each feature.

    The encoder's layers have the widths `hidden`, of which the last is the code's, and the decoder's mirror them. There
    is a ReLU between linear layers, but none after the code and none after the reconstruction, which may be negative.
    Parameters are `encoder.0`, `encoder.2`, … and `decoder.0`, `decoder.2`, ….
    """

    def __init__(self, features: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.encoder = _stack((features, *hidden))
        self.decoder = _stack((*reversed(hidden), features))

    def reconstruct(self, row: Tensor) -> Tensor:
        """Return the reconstruction of transformed rows (N, features), float32, in the same shape."""
        reconstruction: Tensor = self.decoder(self.encoder(row))
        return reconstruction

    def forward(self, row: Tensor) -> Tensor:
        """Return the squared error of each feature of transformed rows (N, features), float32, in the same shape."""
        return (row - self.reconstruct(row)).square()


def _stack(widths: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])
