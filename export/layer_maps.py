"""Maps of one network at several layers, from one pass forwards and two back. It needs PyTorch."""

import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from explain.base import Float32Array, Int64Array
from explain.methods import METHODS, cam, gradcam
from models.architectures import build
from models.card import ImageCard

Key = tuple[str, str]
"""A layer, and a method or `AGAINST`."""

Maps = dict[Key, Float32Array]
"""Maps by layer and method, each of shape (N, h, w), float32, not negative; (h, w) is the layer's size."""

AGAINST = "gradcam against the others"
"""Grad-CAM of -log Σ exp z over all classes but the target: what lowers the other logits z."""

BATCH = 8


def maps_at_layers(
    network: nn.Module, layers: Sequence[str], tensors: Float32Array, targets: Int64Array
) -> tuple[Maps, Maps]:
    """Return the maps of a network, and those that it would have if its logits had the opposite sign.

    The second are the maps of the same network with the weights of its last linear layer negated. A random head is as
    likely to be the one as the other.

    Args:
        network: maps pictures (N, 3, h, w) to at least two logits.
        layers: names of modules whose outputs have shape (N, C, h, w), in the order in which they are computed.
        tensors: the pictures, shape (N, 3, h, w), float32.
        targets: the class that each picture is explained for, shape (N,), int64.
    """
    parts = [
        _maps_of_batch(network, layers, tensors[first : first + BATCH], targets[first : first + BATCH])
        for first in _starts(tensors)
    ]
    own, opposite = (
        {key: np.concatenate([part[which][key] for part in parts]) for key in parts[0][0]} for which in (0, 1)
    )
    return own, opposite


def _starts(tensors: Float32Array) -> range:
    return range(0, len(tensors), BATCH)


def _maps_of_batch(
    network: nn.Module, layers: Sequence[str], tensors: Float32Array, targets: Int64Array
) -> tuple[Maps, Maps]:
    outputs = list[Tensor]()

    def keep_output(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        """Keep a layer's output; the first is a leaf, so that only the layers after it are differentiated."""
        outputs.append(output if outputs else output.detach().requires_grad_())
        return outputs[-1].clone()  # the next layer may write into its input

    hooks = [network.get_submodule(layer).register_forward_hook(keep_output) for layer in layers]
    try:
        with torch.enable_grad():
            logits = network(torch.from_numpy(tensors))
    finally:
        for hook in hooks:
            hook.remove()
    is_target = functional.one_hot(torch.from_numpy(targets), logits.shape[1]).bool()
    others = logits.masked_fill(is_target, -torch.inf).logsumexp(1)
    of_target = torch.autograd.grad(logits[is_target].sum(), outputs, retain_graph=True)
    of_others = torch.autograd.grad(others.sum(), outputs)
    own, opposite = Maps(), Maps()
    for layer, output, gradient, against in zip(layers, outputs, of_target, of_others, strict=True):
        activations = output.detach()
        for maps, sign in ((own, 1), (opposite, -1)):
            for method, weigh in METHODS.items():
                maps[layer, method] = cam(weigh, activations, sign * gradient).numpy()
            maps[layer, AGAINST] = cam(gradcam, activations, -sign * against).numpy()
    return own, opposite


def randomised_networks(
    card: ImageCard, network: nn.Module, prefixes: Sequence[str], count: int
) -> Iterator[nn.Module]:
    """Yield copies of a network in which some weights are those of a new network, one for each seed from 0 on.

    Args:
        card: the model's card, which says how a network is built.
        network: the trained network, which is left as it is.
        prefixes: how the names of the random weights begin.
        count: how many copies.
    """
    for seed in range(count):
        torch.manual_seed(seed)
        fresh = build(card).state_dict()
        weights = {name: fresh[name] for name in fresh if name.startswith(tuple(prefixes))}
        mixed = copy.deepcopy(network)
        mixed.load_state_dict({**network.state_dict(), **weights})
        yield mixed.eval().requires_grad_(False)
