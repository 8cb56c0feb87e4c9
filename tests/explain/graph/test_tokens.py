"""The explain graphs of vision transformers, whose feature maps are tokens, against the `grad-cam` package."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import timm
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn
from torchvision.models import VisionTransformer  # type: ignore[import-untyped]

from errors import NotCompilable
from explain.graph.maps import explain_graph
from explain.onnx import OnnxExplainer
from export.graph import trace_to_onnx
from tests.explain.grad_cam_package import PACKAGE, package_maps
from tests.explain.graph.exported import assert_close, exported


def class_token_transformer() -> Any:
    return timm.create_model("test_vit", num_classes=7, img_size=(64, 96))


def distilled_transformer() -> Any:
    options: dict[str, Any] = {"img_size": 64, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 7}
    return timm.create_model("deit_tiny_distilled_patch16_224", **options)


def averaging_transformer() -> Any:
    return timm.create_model("test_vit", num_classes=7, img_size=(64, 96), class_token=False, global_pool="avg")


def torchvisions_transformer() -> Any:
    network = VisionTransformer(64, 16, 2, 2, 32, 64, num_classes=7)
    nn.init.normal_(network.heads.head.weight, 0, 0.05)  # torchvision begins with zeros
    return network


TRANSFORMERS: dict[str, tuple[Callable[[], Any], str, tuple[int, int], int]] = {
    "a class token": (class_token_transformer, "blocks.5.norm1", (4, 6), 1),
    "a class and a distillation token": (distilled_transformer, "blocks.1.norm1", (4, 4), 2),
    "the mean of all tokens": (averaging_transformer, "norm", (4, 6), 0),
    "torchvision's": (torchvisions_transformer, "encoder.layers.encoder_layer_1.ln_1", (4, 4), 1),
}
"""Name → how it is built, the layer where the `grad-cam` package explains it, the map's size, the tokens before it."""


def tokens_as_map(before: int, size: tuple[int, int]) -> Callable[[Tensor], Tensor]:
    return lambda tokens: tokens[:, before:].reshape(len(tokens), *size, -1).permute(0, 3, 1, 2)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_maps_of_a_transformer_equal_those_of_the_grad_cam_package(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    build, layer, size, before = TRANSFORMERS[name]
    network = build().eval()
    image = torch.randn(2, 3, 16 * size[0], 16 * size[1])
    built = explain_graph(exported(network, image), image.numpy())
    onnx.checker.check_model(built.model, full_check=True)
    (tmp_path / "explain.onnx").write_bytes(built.model.SerializeToString())
    outputs = OnnxExplainer(tmp_path / "explain.onnx").run(image.numpy(), np.array([2, 5]), frozenset(PACKAGE))
    assert built.map_size == size
    assert_close(outputs.logits, network(image).detach().numpy())
    targets = [ClassifierOutputTarget(class_id) for class_id in (2, 5)]
    for method in PACKAGE:
        expected = package_maps(network, layer, method, image, targets, tokens_as_map(before, size))
        assert_close(outputs.maps[method], expected)


def test_the_newer_exporters_graph_of_a_transformer_has_the_same_maps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, image = distilled_transformer().eval(), torch.randn(2, 3, 64, 64)
    maps = []
    for model in (exported(network, image), trace_to_onnx(network, {"image": image}, ["logits"])):
        (tmp_path / "explain.onnx").write_bytes(explain_graph(model, image.numpy()).model.SerializeToString())
        explainer = OnnxExplainer(tmp_path / "explain.onnx")
        maps.append(explainer.run(image.numpy(), np.array([-1, 3]), frozenset({"hirescam"})).maps["hirescam"])
    assert_close(maps[1], maps[0])


class Unordered(nn.Module):
    """A transformer that reads its patches column by column, which no map is known for."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.MultiheadAttention(8, 2, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, 3)

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.patches(image).permute(0, 3, 2, 1).flatten(1, 2)
        for block in self.blocks:
            tokens = tokens + block(tokens, tokens, tokens)[0]
        logits: Tensor = self.head(tokens.mean(1))
        return logits


def test_tokens_in_another_order_are_refused() -> None:
    image = torch.randn(2, 3, 16, 24)
    with pytest.raises(NotCompilable, match="attention follows its last feature map, '/patches/Conv_output_0'"):
        explain_graph(exported(Unordered(), image), image.numpy())
