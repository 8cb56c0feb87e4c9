"""What follows the training: batch norms' statistics are computed anew, and the logits are calibrated."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm

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
def calibrate(
    network: nn.Module, loader: Iterable[Sample], device: torch.device, *, prevalence: float | None = None
) -> tuple[float, float]:
    """Scale and shift the last layer so that P(stone) is the observed rate (Platt 1999); no ranking changes.

    Args:
        network: in evaluation mode; its last layer is changed.
        loader: batches that it was not trained on.
        device: where the network is.
        prevalence: share of stones at which P(stone) is to be right; None stands for that in the batches.

    Returns:
        The factor of the logits (the inverse of a temperature), and what is added to the log odds of a stone.
    """
    log_odds, labels = list[float](), list[int]()
    for image, _, label in tqdm(loader, desc="calibrate", unit="batch"):
        logits = network(image.to(device))
        log_odds += (logits[:, 1] - logits[:, 0]).tolist()
        labels += label.tolist()
    truth = np.array(labels)
    share = float(truth.mean()) if prevalence is None else prevalence
    weights = np.where(truth == 1, share / truth.mean(), (1 - share) / (1 - truth.mean()))
    regression = LogisticRegression(C=1e6).fit(np.array(log_odds)[:, None], truth, weights)
    scale, shift = float(regression.coef_[0, 0]), float(regression.intercept_[0])
    last: Any = network.get_submodule("head.7")
    last.weight.mul_(scale)
    last.bias.mul_(scale).add_(torch.tensor([-shift / 2, shift / 2], device=device))
    return scale, shift
