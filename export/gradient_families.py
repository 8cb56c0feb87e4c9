"""Heatmaps of ONNX graphs beside autograd's, on networks of many families with random weights.

Prints a table: how far logits and the maps of every method are apart, as a share of the largest value, and how far the
gradient is from finite differences, which is what `vitrine models add` measures. Needs PyTorch, torchvision and timm.

    python -m export.gradient_families [NETWORK ...]
"""

import importlib.metadata
import io
import sys
import tempfile
import warnings
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from errors import NotCompilable
from explain.base import METHOD_NAMES, ExplainerOutputs
from explain.graph.maps import ExplainGraph, explain_graph
from explain.methods import METHODS, cam
from explain.onnx import OnnxExplainer
from export.gradient_check import gradient_deviation

Layout = Literal["NCHW", "NHWC"] | int
"""The axes of a layer's output; a number is how many tokens come before those of the map, of tokens (N, T, C)."""


class Compared(NamedTuple):
    """A network that is compared.

    Attributes:
        name: what its library calls it.
        family: of networks.
        library: which has it.
        side: of its pictures, in pixels.
        layer: the module whose output the graph is to be explained at.
        layout: of that output.
    """

    name: str
    family: str
    library: Literal["timm", "torchvision"]
    side: int
    layer: str
    layout: Layout = "NCHW"


COMPARED: Final = (
    Compared("resnet18", "ResNet", "torchvision", 96, "layer4"),
    Compared("resnext50_32x4d", "ResNeXt", "torchvision", 96, "layer4"),
    Compared("densenet121", "DenseNet", "timm", 96, "features.norm5"),
    Compared("vgg11_bn", "VGG", "torchvision", 224, "avgpool"),
    Compared("googlenet", "Inception", "torchvision", 96, "inception5b"),
    Compared("inception_v3", "Inception", "torchvision", 139, "Mixed_7c"),
    Compared("mobilenet_v2", "MobileNet", "torchvision", 96, "features"),
    Compared("mobilenet_v3_small", "MobileNet", "torchvision", 96, "features"),
    Compared("mnasnet0_5", "MnasNet", "torchvision", 96, "layers"),
    Compared("shufflenet_v2_x0_5", "ShuffleNet", "torchvision", 96, "conv5"),
    Compared("squeezenet1_1", "SqueezeNet", "torchvision", 96, "classifier.2"),
    Compared("ghostnet_050", "GhostNet", "timm", 96, "blocks"),
    Compared("efficientnet_b0", "EfficientNet", "torchvision", 96, "features"),
    Compared("test_efficientnet", "EfficientNet", "timm", 96, "bn2"),
    Compared("regnet_y_400mf", "RegNet", "torchvision", 96, "trunk_output"),
    Compared("test_nfnet", "NFNet", "timm", 96, "final_act"),
    Compared("test_convnext", "ConvNeXt", "timm", 96, "stages"),
    Compared("test_mambaout", "MambaOut", "timm", 96, "stages", "NHWC"),
    Compared("swin_tiny_patch4_window7_224", "Swin", "timm", 224, "norm", "NHWC"),
    Compared("vit_tiny_patch16_224", "ViT", "timm", 224, "blocks.11.norm1", 1),
    Compared("vit_relpos_small_patch16_224", "ViT", "timm", 224, "norm", 0),
    Compared("deit_tiny_distilled_patch16_224", "DeiT", "timm", 224, "blocks.11.norm1", 2),
)


class Comparison(NamedTuple):
    """What was measured of one network.

    Attributes:
        layer: the feature map that was found in the graph.
        map_size: its height and width.
        difference: the largest of logits and maps from autograd's, as a share of the largest of its kind.
        deviation: of the gradient from finite differences.
    """

    layer: str
    map_size: tuple[int, int]
    difference: float
    deviation: float


def random_network(compared: Compared) -> nn.Module:
    """Return a network of seven classes, with random weights that leave no class and no channel without a gradient."""
    options: dict[str, Any] = {"aux_logits": False} if compared.name == "googlenet" else {}
    options |= {"init_weights": False} if compared.family == "Inception" else {}
    torch.manual_seed(0)
    if compared.library == "timm":
        import timm

        network: nn.Module = timm.create_model(compared.name, num_classes=7)
    else:
        from torchvision import models  # type: ignore[import-untyped]

        network = models.get_model(compared.name, num_classes=7, **options)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None and module.running_var is not None:
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
        elif isinstance(module, nn.Linear) and not module.weight.any():
            nn.init.normal_(module.weight, 0, 0.05)
    return network.eval()


def maps_by_autograd(
    network: nn.Module, layer: str, layout: Layout, size: tuple[int, int], image: Tensor, targets: Sequence[int]
) -> ExplainerOutputs:
    """Return logits and maps of every method by PyTorch's autograd."""
    captured: list[Tensor] = []

    def as_leaf(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        captured.append(output.detach().requires_grad_())
        return captured[0].clone()

    hook = network.get_submodule(layer).register_forward_hook(as_leaf)
    try:
        logits = network(image)
    finally:
        hook.remove()
    classes = [target if target >= 0 else int(row.argmax()) for target, row in zip(targets, logits, strict=True)]
    (gradient,) = torch.autograd.grad(logits[torch.arange(len(classes)), classes].sum(), captured[0])
    values = (_channels_first(value.detach(), layout, size) for value in (captured[0], gradient))
    activations, gradient = values
    maps = {name: cam(method, activations, gradient).numpy() for name, method in METHODS.items()}
    return ExplainerOutputs(logits.detach().numpy(), maps)


def _channels_first(value: Tensor, layout: Layout, size: tuple[int, int]) -> Tensor:
    if isinstance(layout, int):
        value, layout = value[:, layout:].reshape(len(value), *size, -1), "NHWC"
    return value.permute(0, 3, 1, 2) if layout == "NHWC" else value


def compare(compared: Compared) -> Comparison:
    """Export a network, write its explain graph, and compare it with autograd.

    Raises:
        NotCompilable: the graph cannot be explained; the message says why.
    """
    network = random_network(compared)
    image = torch.randn(2, 3, compared.side, compared.side, generator=torch.Generator().manual_seed(1))
    built = explain_graph(_graph_of(network, image), image.numpy())
    outputs = _run(built, image, targets := [-1, 3])
    expected = maps_by_autograd(network, compared.layer, compared.layout, built.map_size, image, targets)
    pairs = [(outputs.logits, expected.logits), *((outputs.maps[name], expected.maps[name]) for name in METHOD_NAMES)]
    if any(ours.shape != theirs.shape for ours, theirs in pairs):
        raise NotCompilable(f"it is explained at another layer: {built.layer!r}, {built.map_size}")
    difference = max(float(abs(ours - theirs).max() / abs(theirs).max()) for ours, theirs in pairs)
    return Comparison(built.layer, built.map_size, difference, gradient_deviation(built, image.numpy()))


def _graph_of(network: nn.Module, image: Tensor) -> onnx.ModelProto:
    """Return the graph that PyTorch's older exporter makes, in a tenth of the newer one's time."""
    file = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is deprecated
        torch.onnx.export(
            network,
            (image,),
            file,  # type: ignore[arg-type]  # which it takes
            dynamo=False,
            opset_version=17,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: "n"}, "logits": {0: "n"}},
        )
    return onnx.load_from_string(file.getvalue())


def _run(built: ExplainGraph, image: Tensor, targets: Sequence[int]) -> ExplainerOutputs:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "explain.onnx"
        file.write_bytes(built.model.SerializeToString())
        return OnnxExplainer(file).run(image.numpy(), np.array(targets), frozenset(METHOD_NAMES))


def main(names: Sequence[str]) -> int:
    """Print the table of the networks with these names, or of all; return how many could not be compared."""
    packages = ("torch", "torchvision", "timm", "onnx", "onnxruntime")
    print(f"{date.today()}: " + ", ".join(f"{name} {importlib.metadata.version(name)}" for name in packages) + "\n")
    print("| family | network | map | largest difference from autograd | from finite differences |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    failed = 0
    for compared in COMPARED:
        if names and compared.name not in names:
            continue
        head = f"| {compared.family} | {compared.library} `{compared.name}`"
        try:
            result = compare(compared)
        except NotCompilable as error:
            failed += 1
            print(f"{head} | none: {error} | | |", flush=True)
            continue
        size = "×".join(map(str, result.map_size))
        print(f"{head} | {size} | {result.difference:.1e} | {result.deviation:.1e} |", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
