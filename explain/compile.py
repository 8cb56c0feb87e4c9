"""Compile class activation maps: trace a network and the gradient of its target layer into one graph.

Only the layers after the target layer are differentiated, and their gradients are ordinary convolutions. One run of the
graph therefore returns logits and maps at little more than the cost of a prediction. This module needs PyTorch.
"""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, cast

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch._decomp import core_aten_decompositions
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

from errors import NotCompilable
from explain.methods import METHODS, cam

Stages = Sequence[tuple[str, nn.Module]]
"""A network as layers that are applied one after the other, each with its dotted name in the network."""


class HasStages(Protocol):
    """A network that can be cut between its stages."""

    def stages(self) -> Stages:
        """Return the network's layers, in order."""


def split(stages: Stages, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a network after a layer into its trunk (image → activations) and its tail (activations → logits).

    Raises:
        NotCompilable: there is no such layer, or none follows it; the message lists the layers that can be named.
    """
    names = [name for name, _ in stages]
    if layer not in names[:-1]:
        raise NotCompilable(f"the network cannot be cut at {layer!r}; it can be at: {', '.join(names[:-1])}")
    cut = names.index(layer) + 1
    trunk, tail = ([module for _, module in part] for part in (stages[:cut], stages[cut:]))
    return nn.Sequential(*trunk), nn.Sequential(*tail)


class NetworkWithMaps(nn.Module):
    """A network that returns, beside its logits, one map for each method of `explain.methods.METHODS`.

    Its parameters keep the network's own names, so that an exported graph can share the weights file of the plain
    prediction. The network that it was made from is left as it was.

    Args:
        network: provides its layers by `stages()`; a copy of it is traced.
        layer: the target layer, after which the network is cut.
        size: height and width of the images, in pixels.

    Raises:
        NotCompilable: the network has no `stages`, cannot be cut there, or its gradient cannot be traced.
    """

    def __init__(self, network: nn.Module, layer: str, size: tuple[int, int]) -> None:
        super().__init__()
        if not hasattr(network, "stages"):
            raise NotCompilable(f"{type(network).__name__} has no `stages()`, so it cannot be cut")
        network = copy.deepcopy(network).eval().requires_grad_(False)
        trunk, tail = split(cast(HasStages, network).stages(), layer)
        for name, child in network.named_children():
            self.add_module(name, child)
        self._trunk, self._tail = (trunk,), (tail,)  # tuples: their parameters are registered above already
        self._names = [name for name, _ in [*tail.named_parameters(), *tail.named_buffers()]]
        with torch.no_grad():
            activations = trunk(torch.zeros(2, 3, *size))
            _fold_batch_norms(tail, activations)
            activations = activations[:1].expand(self._unique_batch_size(activations), -1, -1, -1).contiguous()
        try:
            traced = make_fx(
                partial(_logits_and_maps, tail, self._names),
                tracing_mode="symbolic",
                decomposition_table=_decompositions(),
                _allow_non_fake_inputs=True,
            )(activations, *(torch.full((len(activations),), -1) for _ in range(2)), self._tensors())
        except Exception as error:
            raise NotCompilable(f"the gradient down to {layer!r} cannot be traced ({error})") from error
        _remove_needless_expands(traced)
        self._traced = (traced,)
        self.eval()

    def _tensors(self) -> list[Tensor]:
        tensors = {**dict(self._tail[0].named_parameters()), **dict(self._tail[0].named_buffers())}
        return [tensors[name] for name in self._names]

    def _unique_batch_size(self, activations: Tensor) -> int:
        """Return a batch size that no other dimension has: the tracer takes equal numbers for the same dimension."""
        taken = {size for tensor in (activations, *self._tensors()) for size in tensor.shape}
        return next(size for size in range(2, 10_000) if size not in taken)

    def forward(self, image: Tensor, target: Tensor, contrast: Tensor) -> tuple[Tensor, ...]:
        """Compute logits and maps.

        Args:
            image: shape (N, 3, H, W), float32.
            target: the class that each image is explained for, or -1 for the one with the highest logit; (N,) int64.
            contrast: the class that the target is set against, or -1 for none; (N,) int64.

        Returns:
            Logits (N, K) and one map (N, h, w) for each method.
        """
        outputs: tuple[Tensor, ...] = self._traced[0](self._trunk[0](image), target, contrast, self._tensors())
        return outputs


def _logits_and_maps(
    tail: nn.Module,
    names: list[str],
    activations: Tensor,
    target: Tensor,
    contrast: Tensor,
    tensors: list[Tensor],
) -> tuple[Tensor, ...]:
    def summed_scores(tail_input: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(tail, dict(zip(names, tensors, strict=True)), (tail_input.clone(),))
        # Items of a batch do not mix, so the gradient of the sum is, for each item, the gradient of its own score.
        return (logits * score_weights(logits, target, contrast)).sum(), logits

    gradients, logits = torch.func.grad(summed_scores, has_aux=True)(activations)
    return logits, *(cam(method, activations, gradients) for method in METHODS.values())


def score_weights(logits: Tensor, target: Tensor, contrast: Tensor) -> Tensor:
    """Return what each logit counts for in the score that is explained: 1 for the target, -1 for the contrast.

    Args:
        logits: shape (N, K), float32.
        target: the class that each item is explained for, or -1 for the one with the highest logit; (N,) int64.
        contrast: the class that the target is set against, or -1 for none; (N,) int64.

    Returns:
        Shape (N, K), float32; all 0 for an item whose target is its own contrast.
    """
    count = logits.shape[1]
    chosen = F.one_hot(torch.where(target < 0, logits.argmax(1), target), count)
    against = F.one_hot(torch.where(contrast < 0, count, contrast), count + 1)[:, :count]
    return (chosen - against).to(logits.dtype)


def _fold_batch_norms(tail: nn.Module, activations: Tensor) -> None:
    """Scale each convolution's weights by the batch norm that follows it, within the graph.

    Forward and backward then run one convolution each and no normalisation. A session multiplies the two constants
    once, when it loads the graph; the weights file keeps what PyTorch wrote.
    """
    convolution_of_output: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, Any]] = []
    alive: list[Tensor] = []  # a tensor that was freed could pass its id on to another

    def note_neighbours(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        alive.extend((inputs[0], output))
        if isinstance(module, nn.Conv2d):
            convolution_of_output[id(output)] = module
        elif isinstance(module, nn.BatchNorm2d) and (conv := convolution_of_output.get(id(inputs[0]))) is not None:
            pairs.append((conv, module))

    leaves = [module for module in tail.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(note_neighbours) for module in leaves]
    tail(activations)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        conv.forward = partial(_normalised_convolution, conv, norm)  # type: ignore[method-assign]
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        norm.forward = nn.Sequential(*rest).forward


def _normalised_convolution(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if norm.running_mean is None or norm.running_var is None or conv.padding_mode != "zeros":
        raise NotCompilable("a batch norm without running statistics")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


_BROADCASTING = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.sub.Tensor)


def _remove_needless_expands(traced: fx.GraphModule) -> None:
    """Remove each `expand` whose users would broadcast the operand by themselves."""
    for expand in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.expand.default):
        operand = expand.args[0]
        # The gradient of a mean is expanded, then divided.
        quotients = [user for user in expand.users if user.target is torch.ops.aten.div.Scalar]
        uses = [(user, expand) for user in expand.users if user not in quotients]
        uses += [(user, quotient) for quotient in quotients for user in quotient.users]
        if all(_keeps_its_shape(user, expanded, operand) for user, expanded in uses):
            for quotient in quotients:
                quotient.meta["val"] = operand.meta["val"]
            expand.replace_all_uses_with(operand)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _keeps_its_shape(user: fx.Node, expanded: fx.Node, operand: fx.Node) -> bool:
    """Return whether an operator's output has the same shape when it is given `operand` in place of `expanded`."""
    operands = [operand if argument is expanded else argument for argument in user.args[:2]]
    nodes = [node for node in operands if isinstance(node, fx.Node)]
    if user.target not in _BROADCASTING or len(nodes) != len(operands):
        return False
    shapes = [node.meta["val"].shape for node in nodes]
    return bool(torch.broadcast_shapes(*shapes) == user.meta["val"].shape)  # type: ignore[no-untyped-call]


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """Return how the operators of a gradient are written in operators that ONNX has."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table[torch.ops.aten.convolution_backward.default] = convolution_input_gradient
    table[torch.ops.aten.silu_backward.default] = _silu_gradient
    table[torch.ops.aten.empty_permuted.default] = lambda size, order, **kwargs: torch.zeros(
        size, dtype=kwargs.get("dtype")
    )
    return table


def _silu_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """Return SiLU's gradient, σ(x) · (1 + x · (1 - σ(x))); PyTorch's decomposition would first fill a tensor with 1."""
    sigmoid = torch.sigmoid(x)
    return gradient * (sigmoid * (1 + x * (1 - sigmoid)))


def convolution_input_gradient(
    gradient: Tensor,
    x: Tensor,
    weight: Tensor,
    bias_sizes: object,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    output_padding: object,
    groups: int,
    mask: object,
) -> tuple[Tensor, None, None]:
    """Return a convolution's gradient with respect to its input, computed by a convolution.

    PyTorch's own is a transposed convolution, which is slow in ONNX Runtime. The gradient of a strided convolution is
    spread out first, with zeros in between. Its full correlation with the flipped kernel, whose input and output
    channels change places within each group, is the result.
    """
    if transposed:
        raise NotCompilable("a transposed convolution")
    kernel, size = weight.shape[2:], x.shape[2:]
    if any(step > 1 for step in stride):
        gradient = _spread(gradient, stride)
    before = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    after = [
        int(full) - int(have) - b + d * (k - 1)
        for full, have, b, d, k in zip(size, gradient.shape[2:], before, dilation, kernel, strict=True)
    ]
    if min(*before, *after) < 0:
        raise NotCompilable(f"a convolution with padding {tuple(padding)} beyond its kernel {tuple(kernel)}")
    if before != after:
        gradient = F.pad(gradient, (before[1], after[1], before[0], after[0]))
        before = [0, 0]
    return F.conv2d(gradient, _flipped_and_swapped(weight, groups), None, 1, before, dilation, groups), None, None


def _spread(gradient: Tensor, stride: Sequence[int]) -> Tensor:
    """Put zeros between the values of a gradient, (N, C, h, w) → (N, C, h·s, w·s)."""
    channels, height, width = gradient.shape[1:]
    padded = F.pad(gradient[..., None, :, None], (0, stride[1] - 1, 0, 0, 0, stride[0] - 1))
    return padded.reshape(-1, channels, height * stride[0], width * stride[1])


def _flipped_and_swapped(weight: Tensor, groups: int) -> Tensor:
    """Flip a kernel and exchange its input and output channels, (O, I/g, kh, kw) → (I, O/g, kh, kw)."""
    if weight.shape[2:] != (1, 1):
        weight = weight.flip(2, 3)
    if weight.shape[1] == 1 and groups == weight.shape[0]:
        return weight
    outputs, inputs = weight.shape[:2]
    grouped = weight.reshape(groups, outputs // groups, inputs, *weight.shape[2:])
    return grouped.transpose(1, 2).reshape(groups * inputs, outputs // groups, *weight.shape[2:])
