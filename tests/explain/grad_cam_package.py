"""The maps of the `grad-cam` package, which ours are compared with."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from pytorch_grad_cam import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM
from torch import Tensor, nn

Target = Callable[[Tensor], Tensor]
"""The score that is explained, by the logits (K,) of one picture."""
PACKAGE: dict[str, Any] = {"gradcam": GradCAM, "gradcam++": GradCAMPlusPlus, "layercam": LayerCAM, "hirescam": HiResCAM}


def package_maps(
    network: nn.Module,
    layer: str,
    method: str,
    image: Tensor,
    targets: Sequence[Target],
    as_map: Callable[[Tensor], Tensor] | None = None,
) -> npt.NDArray[np.float32]:
    """Return the maps of the package, (N, h, w), neither scaled nor resized.

    Args:
        network: gives logits (N, K).
        layer: dotted name of the module that it is explained at.
        method: one of our names.
        image: shape (N, 3, H, W), float32.
        targets: the score of each picture.
        as_map: makes (N, C, h, w) of what the module gives; None where that is its shape already.
    """
    with PACKAGE[method](network, [network.get_submodule(layer)], reshape_transform=as_map) as explained:
        image = image.clone().requires_grad_()
        explained.outputs = explained.activations_and_grads(image)
        scores = [target(output) for target, output in zip(targets, explained.outputs, strict=True)]
        torch.autograd.backward(torch.stack(scores).sum())
        activations = explained.activations_and_grads.activations[0].numpy()
        gradients = explained.activations_and_grads.gradients[0].numpy()
        maps = explained.get_cam_image(image, network.get_submodule(layer), targets, activations, gradients, False)
    return np.asarray(np.maximum(maps, 0))
