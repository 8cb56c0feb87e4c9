"""What follows the training: batch norms' statistics are computed anew, and the logits are calibrated."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from training import metrics
from training.kidney_stone.dataset import Sample


@torch.no_grad()
def recompute_norms(network: nn.Module, loader: DataLoader[Sample], device: torch.device) -> None:
    """Set batch norms' statistics to plain averages under the final weights (Wu & Johnson 2021, section 3).

    The moving averages of training come from its last few batches of 16, half of which are twins; they alone shifted
    the logits.
    """
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
    network.train()
    for image, _, _ in tqdm(loader, desc="batch norms", unit="batch"):
        network(image.to(device))
    network.eval()


@torch.inference_mode()
def calibrate(network: nn.Module, loader: Iterable[Sample], device: torch.device) -> tuple[float, float]:
    """Scale and shift the last layer so that P(stone) is the observed rate; no ranking changes.

    Returns:
        What `fit_platt` returns.
    """
    log_odds, labels = list[float](), list[int]()
    for image, _, label in tqdm(loader, desc="calibrate", unit="batch"):
        logits = network(image.to(device))
        log_odds += (logits[:, 1] - logits[:, 0]).tolist()
        labels += label.tolist()
    scale, shift = fit_platt(np.array(labels), np.array(log_odds))
    rescale(network, scale, shift)
    return scale, shift


def fit_platt(
    labels: metrics.Labels, log_odds: npt.NDArray[np.float64], prevalence: float | None = None
) -> tuple[float, float]:
    """Return the scale and shift of log odds that make them those of the observed rate (Platt 1999).

    Args:
        labels: shape (N,).
        log_odds: of a stone, shape (N,).
        prevalence: share of stones for which they are to be right; None stands for that among the labels.

    Returns:
        The factor of the log odds (the inverse of a temperature), and what is then added to them.
    """
    observed = float(labels.mean())
    share = observed if prevalence is None else prevalence
    weights = np.where(labels == 1, share / observed, (1 - share) / (1 - observed))
    regression = LogisticRegression(C=1e6).fit(log_odds[:, None], labels, weights)
    return float(regression.coef_[0, 0]), float(regression.intercept_[0])


@torch.no_grad()
def rescale(network: nn.Module, scale: float, shift: float) -> None:
    """Change the last layer so that the log odds of a stone are multiplied by `scale`, and `shift` is added to them."""
    last: Any = network.get_submodule("head.7")
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(torch.tensor([-shift / 2, shift / 2], device=last.bias.device))
