"""Explanations by PyTorch's autograd: on CUDA and MPS, for what cannot be compiled, and to compare with.

Needs PyTorch.
"""

import threading

import numpy as np
import torch
from torch import Tensor, nn

from explain.base import Explanation, Float32Array, Int64Array
from explain.methods import METHODS, cam


class AutogradExplainer:
    """Any network, any layer that it names.

    Args:
        network: image → logits; put into evaluation mode.
        layer: dotted name of a module whose output is (N, C, h, w).
        device: `cpu`, `cuda:0` or `mps`.

    Raises:
        ValueError: the network has no such layer.
    """

    def __init__(self, network: nn.Module, layer: str, device: str = "cpu") -> None:
        self.device = device
        self._network = network.to(device).eval().requires_grad_(False)
        try:
            self._layer = self._network.get_submodule(layer)
        except AttributeError as error:
            raise ValueError(f"the network has no layer {layer!r}") from error
        self._one_at_a_time = threading.Lock()  # a hook sees whatever passes through its layer

    def run(self, batch: Float32Array, targets: Int64Array, methods: frozenset[str]) -> Explanation:
        """Explain one batch; see `explain.base.Explainer`."""
        seen: list[Tensor] = []

        def cut(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
            """Only what comes after the layer is differentiated."""
            seen.append(output.detach().requires_grad_())
            return seen[0].clone()  # what follows may write into its input

        with self._one_at_a_time, torch.enable_grad():
            hook = self._layer.register_forward_hook(cut)
            try:
                logits = self._network(torch.from_numpy(batch).to(self.device))
            finally:
                hook.remove()
            target = torch.from_numpy(targets).to(self.device)
            chosen = torch.where(target < 0, logits.argmax(1), target)
            activations = seen[0]
            (gradients,) = torch.autograd.grad(logits.gather(1, chosen[:, None]).sum(), activations)
            activations = activations.detach()
            maps = {name: cam(METHODS[name], activations, gradients).cpu().numpy() for name in methods}
            return Explanation(np.asarray(logits.detach().cpu().numpy(), np.float32), maps)

    def close(self) -> None:
        """Let go of the network."""
        del self._network, self._layer
