"""Grad-CAM compiled: the pass back from the logits to the target layer, traced into the ONNX graph of a prediction.

Only the layers after the target layer are differentiated, and their gradients are ordinary convolutions, so
logits and maps come out of one run that costs little more than the prediction. Needs PyTorch.
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

from explain.methods import METHODS, cam

Stages = Sequence[tuple[str, nn.Module]]
"""A network as layers applied one after the other, each with the name of its place in the network."""


class HasStages(Protocol):
    """A network that can be cut."""

    def stages(self) -> Stages:
        """Its layers, in order."""
        ...


class NotCompilable(Exception):
    """The network cannot be cut at this layer, or its gradient cannot be traced; autograd can still explain it."""


def split(stages: Stages, layer: str) -> tuple[nn.Sequential, nn.Sequential]:
    """Cut a network after a layer: trunk (image → A) and tail (A → logits).

    Raises:
        NotCompilable: no such layer, or none after it; the message lists those that can be named.
    """
    names = [name for name, _ in stages]
    if layer not in names[:-1]:
        raise NotCompilable(f"the network cannot be cut at {layer!r}; it can be at: {', '.join(names[:-1])}")
    cut = names.index(layer) + 1
    trunk, tail = ([module for _, module in part] for part in (stages[:cut], stages[cut:]))
    return nn.Sequential(*trunk), nn.Sequential(*tail)


class Explained(nn.Module):
    """(image (N, 3, H, W) float32, target (N,) int64) → logits (N, K) and one map (N, h, w) for each method.

    Target -1 means the class with the highest logit. Parameters keep the network's own names, so that an exported
    graph can share the weights file of the plain prediction.
    """

    def __init__(self, network: nn.Module, layer: str, size: tuple[int, int]) -> None:
        """Trace a copy of `network`, whose `stages()` gives its layers, cut after `layer`, for images of `size`.

        Raises:
            NotCompilable: the network has no `stages`, cannot be cut there, or its gradient cannot be traced.
        """
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
            activations = activations[:1].expand(self._unlike_any_other(activations), -1, -1, -1).contiguous()
        try:
            traced = make_fx(
                partial(_logits_and_maps, tail, self._names),
                tracing_mode="symbolic",
                decomposition_table=_decompositions(),
                _allow_non_fake_inputs=True,
            )(activations, torch.full((len(activations),), -1), self._tensors())
        except Exception as error:
            raise NotCompilable(f"the gradient down to {layer!r} cannot be traced ({error})") from error
        _broadcast(traced)
        self._traced = (traced,)
        self.eval()

    def _tensors(self) -> list[Tensor]:
        tensors = {**dict(self._tail[0].named_parameters()), **dict(self._tail[0].named_buffers())}
        return [tensors[name] for name in self._names]

    def _unlike_any_other(self, activations: Tensor) -> int:
        """A batch size to trace with that is no other dimension: the tracer takes equal numbers for the same one."""
        taken = {size for tensor in (activations, *self._tensors()) for size in tensor.shape}
        return next(size for size in range(2, 10_000) if size not in taken)

    def forward(self, image: Tensor, target: Tensor) -> tuple[Tensor, ...]:
        """See the class."""
        result: tuple[Tensor, ...] = self._traced[0](self._trunk[0](image), target, self._tensors())
        return result


def _logits_and_maps(
    tail: nn.Module, names: list[str], activations: Tensor, target: Tensor, tensors: list[Tensor]
) -> tuple[Tensor, ...]:
    def score(acts: Tensor) -> tuple[Tensor, Tensor]:
        logits = functional_call(tail, dict(zip(names, tensors, strict=True)), (acts.clone(),))
        chosen = torch.where(target < 0, logits.argmax(1), target)
        # A sum over the batch: items do not mix, so the gradient of each is that of its own score.
        return (logits * F.one_hot(chosen, logits.shape[1]).to(logits.dtype)).sum(), logits

    gradients, logits = torch.func.grad(score, has_aux=True)(activations)
    return logits, *(cam(method, activations, gradients) for method in METHODS.values())


def _fold_batch_norms(tail: nn.Module, activations: Tensor) -> None:
    """Scale each convolution's weights by the batch norm that follows it, within the graph.

    Forward and backward then run one convolution each and no normalisation. The product of two constants is taken
    once, when a session loads; the weights file stays what PyTorch wrote.
    """
    produced: dict[int, nn.Conv2d] = {}
    pairs: list[tuple[nn.Conv2d, Any]] = []
    kept: list[Tensor] = []  # so that no id is used twice

    def after(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        kept.extend((inputs[0], output))
        if isinstance(module, nn.Conv2d):
            produced[id(output)] = module
        elif isinstance(module, nn.BatchNorm2d) and (conv := produced.get(id(inputs[0]))) is not None:
            pairs.append((conv, module))

    leaves = [module for module in tail.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    hooks = [module.register_forward_hook(after) for module in leaves]
    tail(activations)
    for hook in hooks:
        hook.remove()
    for conv, norm in pairs:
        conv.forward = partial(_folded, conv, norm)  # type: ignore[method-assign]
        rest = [part for part in (getattr(norm, "drop", None), getattr(norm, "act", None)) if part is not None]
        norm.forward = nn.Sequential(*rest).forward


def _folded(conv: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor) -> Tensor:
    if norm.running_mean is None or norm.running_var is None or conv.padding_mode != "zeros":
        raise NotCompilable("a batch norm without running statistics")
    scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    shift = norm.bias - norm.running_mean * scale
    if conv.bias is not None:
        shift = shift + conv.bias * scale
    weight = conv.weight * scale[:, None, None, None]
    return F.conv2d(x, weight, shift, conv.stride, conv.padding, conv.dilation, conv.groups)


_WIDENING = (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor, torch.ops.aten.sub.Tensor)


def _broadcast(traced: fx.GraphModule) -> None:
    """Drop copies that only widen an operand of an operator which would widen it by itself."""
    for wide in traced.graph.find_nodes(op="call_function", target=torch.ops.aten.expand.default):
        narrow = wide.args[0]
        # The gradient of a mean is widened, then divided.
        scaled = [user for user in wide.users if user.target is torch.ops.aten.div.Scalar]
        ends = [(user, wide) for user in wide.users if user not in scaled]
        ends += [(user, each) for each in scaled for user in each.users]
        if all(_widens(user, operand, narrow) for user, operand in ends):
            for each in scaled:
                each.meta["val"] = narrow.meta["val"]
            wide.replace_all_uses_with(narrow)
    traced.graph.eliminate_dead_code()
    traced.recompile()


def _widens(user: fx.Node, wide: fx.Node, narrow: fx.Node) -> bool:
    """Whether an operator gives the same shape with a narrow operand in the place of a wide one."""
    operands = [narrow if each is wide else each for each in user.args[:2]]
    nodes = [each for each in operands if isinstance(each, fx.Node)]
    if user.target not in _WIDENING or len(nodes) != len(operands):
        return False
    shapes = [each.meta["val"].shape for each in nodes]
    return bool(torch.broadcast_shapes(*shapes) == user.meta["val"].shape)  # type: ignore[no-untyped-call]


def _decompositions() -> dict[Any, Callable[..., Any]]:
    """How to write in operators that ONNX has what a gradient is made of."""
    table: dict[Any, Callable[..., Any]] = dict(core_aten_decompositions())
    table[torch.ops.aten.convolution_backward.default] = _input_gradient
    table[torch.ops.aten.silu_backward.default] = _silu_gradient
    table[torch.ops.aten.empty_permuted.default] = lambda size, order, **kwargs: torch.zeros(
        size, dtype=kwargs.get("dtype")
    )
    return table


def _silu_gradient(gradient: Tensor, x: Tensor) -> Tensor:
    """The gradient of SiLU, σ(x) · (1 + x · (1 - σ(x))); PyTorch's own decomposition fills a tensor with ones first."""
    sigmoid = torch.sigmoid(x)
    return gradient * (sigmoid * (1 + x * (1 - sigmoid)))


def _input_gradient(
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
    """A convolution's gradient with respect to its input, as a convolution: transposed ones are slow in ONNX Runtime.

    A gradient of a strided convolution is spread out with zeros between first. Then it is the full correlation with
    the flipped kernel, whose channels of input and output change places within each group.
    """
    if transposed:
        raise NotCompilable("a transposed convolution")
    kernel, size = weight.shape[2:], x.shape[2:]
    if any(step > 1 for step in stride):
        gradient = _spread(gradient, stride)
    before = [d * (k - 1) - p for d, k, p in zip(dilation, kernel, padding, strict=True)]
    lacking = [
        int(full) - int(have) - b + d * (k - 1)
        for full, have, b, d, k in zip(size, gradient.shape[2:], before, dilation, kernel, strict=True)
    ]
    if min(*before, *lacking) < 0:
        raise NotCompilable(f"a convolution with padding {tuple(padding)} beyond its kernel {tuple(kernel)}")
    if before != lacking:
        gradient = F.pad(gradient, (before[1], lacking[1], before[0], lacking[0]))
        before = [0, 0]
    return F.conv2d(gradient, _swapped(weight, groups), None, 1, before, dilation, groups), None, None


def _spread(gradient: Tensor, stride: Sequence[int]) -> Tensor:
    """Put zeros between, (N, C, h, w) → (N, C, h·s, w·s)."""
    channels, height, width = gradient.shape[1:]
    wide = F.pad(gradient[..., None, :, None], (0, stride[1] - 1, 0, 0, 0, stride[0] - 1))
    return wide.reshape(-1, channels, height * stride[0], width * stride[1])


def _swapped(weight: Tensor, groups: int) -> Tensor:
    """Flip the kernel and let input and output channels change places, (O, I/g, kh, kw) → (I, O/g, kh, kw)."""
    if weight.shape[2:] != (1, 1):
        weight = weight.flip(2, 3)
    if weight.shape[1] == 1 and groups == weight.shape[0]:
        return weight
    outputs, inputs = weight.shape[:2]
    split_up = weight.reshape(groups, outputs // groups, inputs, *weight.shape[2:])
    return split_up.transpose(1, 2).reshape(groups * inputs, outputs // groups, *weight.shape[2:])
