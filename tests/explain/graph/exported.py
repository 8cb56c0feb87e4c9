"""Networks of PyTorch as ONNX graphs, and the gradient that PyTorch's autograd gives of their ends."""

import io
import warnings
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from explain.base import METHOD_NAMES
from explain.graph.maps import ExplainGraph, computed, explain_graph, explained_classes
from explain.methods import METHODS, cam


def exported(
    network: nn.Module,
    image: Tensor,
    *,
    opset: int = 17,
    fixed_batch: bool = False,
    outputs: Sequence[str] = ("scores",),
) -> onnx.ModelProto:
    """Return a network as a graph, by PyTorch's older exporter, which takes a tenth of the newer one's time."""
    file = io.BytesIO()
    axes = {} if fixed_batch else {name: {0: "n"} for name in ("picture", *outputs)}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated; many graphs out there are of its making
        torch.onnx.export(
            network.eval(),
            (image,),
            file,  # type: ignore[arg-type]  # which it takes
            dynamo=False,
            opset_version=opset,
            input_names=["picture"],
            output_names=list(outputs),
            dynamic_axes=axes,
        )
    return onnx.load_from_string(file.getvalue())


class Cut(nn.Module):
    """A network of a convolution, whose output is the feature map, and of an end to be differentiated."""

    def __init__(self, end: nn.Module, channels: int = 4) -> None:
        super().__init__()
        self.start, self.end = nn.Conv2d(3, channels, 3, padding=1), end

    def forward(self, image: Tensor) -> Tensor:
        logits: Tensor = self.end(self.start(image))
        return logits


class Reference(NamedTuple):
    """What autograd gives: logits (N, K), the gradient (N, C, h, w), and the maps (N, h, w) by method."""

    logits: np.ndarray
    gradient: np.ndarray
    maps: dict[str, np.ndarray]


def by_autograd(network: Cut, image: Tensor, targets: list[int]) -> Reference:
    activations = network.start(image).detach().requires_grad_()
    logits = network.end(activations)
    classes = [target if target >= 0 else int(row.argmax()) for target, row in zip(targets, logits, strict=True)]
    score = logits[torch.arange(len(targets)), classes].sum()
    (gradient,) = torch.autograd.grad(score, activations)
    maps = {name: cam(method, activations, gradient).detach().numpy() for name, method in METHODS.items()}
    return Reference(logits.detach().numpy(), gradient.numpy(), maps)


def first_convolution(model: onnx.ModelProto) -> str:
    """Return the name of the feature map of a `Cut`."""
    return next(str(node.output[0]) for node in model.graph.node if node.op_type == "Conv")


def outputs_of(built: ExplainGraph, image: Tensor, targets: list[int]) -> dict[str, Any]:
    names = ["logits", *METHOD_NAMES, built.gradient]
    return computed(built.model, names, {"image": image.numpy()} | explained_classes(targets))


def assert_equals_autograd(network: Cut, size: tuple[int, int], **options: Any) -> None:
    """Fail unless logits, gradient and maps of a network's explain graph, in a batch of four, are autograd's."""
    generator = torch.Generator().manual_seed(1)
    model = exported(network, torch.randn(2, 3, *size, generator=generator), **options)
    built = explain_graph(model, torch.randn(2, 3, *size, generator=generator).numpy(), first_convolution(model))
    onnx.checker.check_model(built.model, full_check=True)
    image, targets = torch.randn(4, 3, *size, generator=generator), [-1, 0, 2, 1]
    expected, actual = by_autograd(network, image, targets), outputs_of(built, image, targets)
    assert_close(actual["logits"], expected.logits)
    assert_close(actual[built.gradient], expected.gradient)
    for method in METHOD_NAMES:
        assert_close(actual[method], expected.maps[method])


def assert_close(actual: np.ndarray, expected: np.ndarray) -> None:
    assert actual.shape == expected.shape
    assert np.abs(expected).max() > 0
    assert np.abs(actual - expected).max() <= 1e-4 * np.abs(expected).max()
