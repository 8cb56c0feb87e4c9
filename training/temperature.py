"""Calibration of a classifier by one number (Guo et al. 2017, section 4.2)."""

import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from torch import Tensor, nn

LOWEST, HIGHEST = 0.05, 20.0
"""Between these the temperature is sought."""


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature T at which softmax(logits / T) gives the labels the highest likelihood.

    Args:
        logits: of items that the network was not trained on, shape (N, K).
        labels: shape (N,), int64.
    """
    wide = logits.double()

    def loss(log_temperature: float) -> float:
        return float(F.cross_entropy(wide / torch.tensor(log_temperature).exp(), labels))

    bounds = torch.tensor([LOWEST, HIGHEST], dtype=torch.float64).log().tolist()
    return float(torch.tensor(minimize_scalar(loss, bounds=bounds, method="bounded").x).exp())


@torch.no_grad()
def divide_logits(last: nn.Linear, temperature: float) -> None:
    """Divide a network's logits by a temperature, by changing its last layer; no ranking changes."""
    last.weight.div_(temperature)
    last.bias.div_(temperature)
