"""The CAM methods: one function each, which computes the weights w of the activations A from A and its gradients g.

A and g have shape (N, C, h, w), where g = ∂(logit of the target class) / ∂A. Weights have shape (N, C, 1, 1) or
(N, C, h, w). The map is ReLU(Σ_c w_c · A_c), shape (N, h, w). This module needs PyTorch.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

Method = Callable[[Tensor, Tensor], Tensor]

EPSILON = 1e-6
"""Keeps Grad-CAM++ from dividing by zero; the `grad-cam` package, which the tests compare with, uses the same value."""


def gradcam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM's w_c = mean over (i, j) of g_c(i, j) (Selvaraju et al. 2017, eq. 1, arXiv:1610.02391)."""
    return gradients.mean((2, 3), keepdim=True)


def gradcam_plus_plus(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return Grad-CAM++'s w_c = Σ α_c · ReLU(g_c), with α_c = g² / (2 g² + Σ A_c · g³), and α = 0 where g = 0.

    Source: Chattopadhay et al. 2018, eqs. 5 and 19, arXiv:1710.11063.
    """
    squared = gradients * gradients
    denominator = 2 * squared + activations.sum((2, 3), keepdim=True) * squared * gradients + EPSILON
    alpha = torch.where(gradients != 0, squared / denominator, torch.zeros_like(squared))
    return (F.relu(gradients) * alpha).sum((2, 3), keepdim=True)


def layercam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return LayerCAM's w_c(i, j) = ReLU(g_c(i, j)) (Jiang et al. 2021, eq. 6, doi:10.1109/TIP.2021.3089943)."""
    return F.relu(gradients)


def hirescam(activations: Tensor, gradients: Tensor) -> Tensor:
    """Return HiResCAM's w_c(i, j) = g_c(i, j), with which the map is the logit's own attribution.

    Source: Draelos & Carin 2020, eq. 3, arXiv:2011.08891.
    """
    return gradients


METHODS: dict[str, Method] = {
    "gradcam": gradcam,
    "gradcam++": gradcam_plus_plus,
    "layercam": layercam,
    "hirescam": hirescam,
}


def cam(method: Method, activations: Tensor, gradients: Tensor) -> Tensor:
    """Return a method's maps, ReLU(Σ_c w_c · A_c), shape (N, h, w)."""
    return F.relu((method(activations, gradients) * activations).sum(1))
