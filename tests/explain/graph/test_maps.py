"""The explain graphs of whole networks, and what cannot be explained."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torchvision import models  # type: ignore[import-untyped]

from errors import NotCompilable
from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES
from explain.graph.maps import computed, explain_graph, explained_classes
from explain.onnx import OnnxExplainer
from tests.explain.graph.exported import (
    Cut,
    assert_close,
    by_autograd,
    exported,
    first_convolution,
    outputs_of,
)

NETWORKS: dict[str, tuple[Callable[[], Any], int, str]] = {
    "torchvision resnet18": (lambda: models.resnet18(num_classes=7), 64, "layer4"),
    "torchvision densenet121": (lambda: models.densenet121(num_classes=7), 64, "1"),
    "torchvision mobilenet_v3_small": (lambda: models.mobilenet_v3_small(num_classes=7), 64, "features"),
    "torchvision squeezenet1_1": (lambda: models.squeezenet1_1(num_classes=7), 96, "classifier.2"),
    "timm efficientnet": (lambda: timm.create_model("test_efficientnet", num_classes=7), 96, "bn2"),
    "timm convnext": (lambda: timm.create_model("test_convnext", num_classes=7), 96, "stages"),
    "timm regnet": (lambda: timm.create_model("test_byobnet", num_classes=7), 96, "final_conv"),
}
"""Name → how it is built, the side of its pictures, and the layer that autograd explains it at."""


def with_seeded_weights(network: nn.Module) -> nn.Module:
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    return network.eval()


@pytest.mark.parametrize("name", NETWORKS)
def test_maps_of_a_network_equal_those_of_autograd(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, side, layer = NETWORKS[name]
    network: Any = with_seeded_weights(build())
    image = torch.randn(2, 3, side, side)
    built = explain_graph(exported(network, image), image.numpy())
    if name == "torchvision densenet121":  # which applies its last ReLU as a function, of no layer
        end = nn.AdaptiveAvgPool2d(1), nn.Flatten(), network.classifier
        network = nn.Sequential(network.features, nn.ReLU(), *end)
    (tmp_path / "explain.onnx").write_bytes(built.model.SerializeToString())
    requested = image.numpy(), np.array([-1, 3]), frozenset(METHOD_NAMES), np.array([-1, 5])
    expected = AutogradExplainer(network, layer).run(*requested)
    actual = OnnxExplainer(tmp_path / "explain.onnx").run(*requested)
    assert_close(actual.logits, expected.logits)
    assert {maps.shape[1:] for maps in actual.maps.values()} == {built.map_size}
    for method in METHOD_NAMES:
        assert_close(actual.maps[method], expected.maps[method])


class Head(nn.Module):
    """Pooling over a map whose channels come last, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.linear(x.permute(0, 2, 3, 1).sigmoid().mean((1, 2)))
        return logits


def test_a_map_whose_channels_come_last_is_explained_alike() -> None:
    torch.manual_seed(5)
    head, image = Head(), torch.randn(2, 3, 6, 8)
    network = Cut(head)
    model = exported(network, image)
    built = explain_graph(model, image.numpy())
    sigmoid = next(node.output[0] for node in model.graph.node if node.op_type == "Sigmoid")
    assert (built.layer, built.map_size) == (sigmoid, (6, 8))
    activations = network.start(image).sigmoid().detach()
    weights = head.linear.weight[[2, 0]].detach()
    expected = torch.relu((weights[:, :, None, None] * activations).sum(1)) / 48
    assert_close(outputs_of(built, image, [2, 0])["gradcam"], expected.numpy())


class ChannelsLast(nn.Module):
    """Takes pictures (N, h, w, C), and gives the pooled features before the logits."""

    def __init__(self, network: Cut) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        activations = self.network.start(image.permute(0, 3, 1, 2))
        return activations.mean((2, 3)), self.network.end(activations)


def test_pictures_may_have_their_channels_last_and_logits_may_be_one_output_of_two() -> None:
    torch.manual_seed(8)
    network = Cut(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    image = torch.randn(2, 3, 6, 8)
    channels_last = image.permute(0, 2, 3, 1).contiguous()
    model = exported(ChannelsLast(network), channels_last, outputs=["features", "logits"])
    built = explain_graph(model, channels_last.numpy())
    assert (built.layer, built.map_size) == (first_convolution(model), (6, 8))
    outputs, expected = outputs_of(built, channels_last, [2, 0]), by_autograd(network, image, [2, 0])
    assert_close(outputs["logits"], expected.logits)
    for method in METHOD_NAMES:
        assert_close(outputs[method], expected.maps[method])


def test_a_graph_whose_batch_is_fixed_at_1_is_explained_item_by_item(tmp_path: Path) -> None:
    torch.manual_seed(6)
    network = Cut(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)))
    image, targets = torch.randn(3, 3, 6, 8), [0, -1, 2]
    built = explain_graph(exported(network, image[:1], fixed_batch=True), image[:1].numpy())
    (tmp_path / "explain.onnx").write_bytes(built.model.SerializeToString())
    outputs = OnnxExplainer(tmp_path / "explain.onnx").run(image.numpy(), np.array(targets), frozenset({"layercam"}))
    expected = by_autograd(network, image, targets)
    assert_close(outputs.logits, expected.logits)
    assert_close(outputs.maps["layercam"], expected.maps["layercam"])


def test_names_of_a_graph_may_be_those_of_an_explain_graph() -> None:
    """The input is called `target`, the feature map `gradcam`, the output `image`; weights are listed as inputs."""
    rng = np.random.default_rng(0)
    kernel = numpy_helper.from_array(rng.normal(size=(4, 3, 1, 1)).astype(np.float32), "logits")
    matrix = numpy_helper.from_array(rng.normal(size=(4, 3)).astype(np.float32), "maps/constant_0")
    nodes = [
        helper.make_node("Conv", ["target", "logits"], ["gradcam"]),
        helper.make_node("ReduceMean", ["gradcam"], ["layercam"], axes=[2, 3], keepdims=0),
        helper.make_node("MatMul", ["layercam", "maps/constant_0"], ["image"]),
    ]
    shapes: dict[str, list[int | str]] = {"target": ["n", 3, 5, 5], "logits": [4, 3, 1, 1], "maps/constant_0": [4, 3]}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, tuple(shape)) for name, shape in shapes.items()]
    output = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3])
    graph = helper.make_graph(nodes, "taken names", inputs, [output], [kernel, matrix])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=7)
    picture = rng.normal(size=(2, 3, 5, 5)).astype(np.float32)
    built = explain_graph(model, picture)
    assert built.layer == "gradcam"
    outputs = computed(built.model, ["logits", "hirescam"], {"image": picture} | explained_classes([1, 2]))
    activations = np.einsum("oi,nihw->nohw", numpy_helper.to_array(kernel)[:, :, 0, 0], picture)
    weights = numpy_helper.to_array(matrix)[:, [1, 2]].T / 25
    assert_close(outputs["logits"], activations.mean((2, 3)) @ numpy_helper.to_array(matrix))
    assert_close(outputs["hirescam"], np.maximum(np.einsum("nc,nchw->nhw", weights, activations), 0))


def explained(end: nn.Module, layer: str | None = None) -> Any:
    image = torch.randn(2, 3, 6, 8)
    return explain_graph(exported(Cut(end), image), image.numpy(), layer)


def test_what_has_no_exact_gradient_is_refused_by_the_name_of_its_node() -> None:
    class Sorted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.flatten(2).topk(2)[0].mean(2)

    with pytest.raises(NotCompilable, match=r"no exact gradient for the node '.*' \(TopK\)"):
        explained(Sorted())


def test_max_pooling_of_parts_of_the_map_is_refused() -> None:
    end = nn.Sequential(nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * 12, 3))
    image = torch.randn(2, 3, 6, 8)
    model = exported(Cut(end), image)
    with pytest.raises(NotCompilable, match=r"the node '/end/end.0/MaxPool' \(MaxPool\) pools parts of the map"):
        explain_graph(model, image.numpy(), first_convolution(model))
    assert explain_graph(model, image.numpy()).map_size == (3, 4)


def test_a_network_without_a_feature_map_is_refused() -> None:
    network, image = nn.Sequential(nn.Flatten(), nn.Linear(3 * 48, 3)), torch.randn(2, 3, 6, 8)
    with pytest.raises(NotCompilable, match="no feature map"):
        explain_graph(exported(network, image), image.numpy())


def test_an_unknown_layer_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(NotCompilable, match=r"no feature map 'layer4' .* it has: .*/start/Conv_output_0"):
        explained(nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3)), "layer4")


def test_half_precision_after_the_map_is_refused() -> None:
    class Half(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.half().mean((2, 3))

    with pytest.raises(NotCompilable, match="float32"):
        explained(Half())


def test_the_graph_that_is_explained_is_left_as_it_was() -> None:
    image = torch.randn(2, 3, 6, 8)
    model = exported(Cut(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))), image)
    before = model.SerializeToString()
    explain_graph(model, image.numpy())
    assert model.SerializeToString() == before
    assert onnx.load(io.BytesIO(before)).graph.input[0].name == "picture"
