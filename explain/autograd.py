"""An explainer that differentiates with PyTorch's autograd. It needs PyTorch.

It serves on CUDA and MPS and explains networks that cannot be compiled; compiled graphs are compared with it.
"""

import threading
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from explain.base import NO_CONTRAST, ExplainerOutputs, Float32Array, Int64Array
from explain.compile import score_weights
from explain.methods import METHODS, cam


class AutogradExplainer:
    """Explains any network at any layer that can be named.

    Args:
        network: maps images (N, 3, h, w) to logits (N, K); it is put into evaluation mode.
        layer: dotted name of a module whose output has shape (N, C, h, w).
        device: `cpu`, `cuda:0` or `mps`.

    Raises:
        ValueError: the network has no such layer.
    """

    runtime: Literal["torch"] = "torch"
    runs_in_parallel = False
    takes_contrasts = True

    def __init__(self, network: nn.Module, layer: str, device: str = "cpu") -> None:
        self.device = device
        self._network = network.to(device).eval().requires_grad_(False)
        try:
            self._layer = self._network.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(f"the network has no layer {layer!r}") from error
        self._lock = threading.Lock()  # a hook is called for every batch that passes through its layer

    def run(
        self, batch: Float32Array, targets: Int64Array, methods: frozenset[str], contrasts: Int64Array | None = None
    ) -> ExplainerOutputs:
        """Explain one batch, as `explain.base.Explainer.run` describes."""
        captured: list[Tensor] = []

        def detach_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            """Keep the layer's output as a leaf, so that only the layers after it are differentiated."""
            captured.append(output.detach().requires_grad_())
            return captured[0].clone()  # the next layer may write into its input

        with self._lock, torch.enable_grad():
            hook = self._layer.register_forward_hook(detach_output)
            try:
                logits = self._network(torch.from_numpy(batch).to(self.device))
            finally:
                hook.remove()
            contrasts = np.full_like(targets, NO_CONTRAST) if contrasts is None else contrasts
            target, contrast = (torch.from_numpy(classes).to(self.device) for classes in (targets, contrasts))
            activations = captured[0]
            score = (logits * score_weights(logits, target, contrast)).sum()
            (gradients,) = torch.autograd.grad(score, activations)
            activations = activations.detach()
            maps = {name: cam(METHODS[name], activations, gradients).cpu().numpy() for name in methods}
            return ExplainerOutputs(np.asarray(logits.detach().cpu().numpy(), np.float32), maps)

    def close(self) -> None:
        """Release the network."""
        del self._network, self._layer
