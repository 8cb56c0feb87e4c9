"""PyramidNet-110 against a forward pass written from the paper, and cut for explanations."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES
from explain.compile import NetworkWithMaps
from explain.methods import METHODS
from export.graph import trace_to_onnx
from models.architectures.pyramidnet import Block, PyramidNet

# By hand: 16 + 8/9, 16 + 16/9, … to the nearest whole number.
CHANNELS = [
    [17, 18, 19, 20, 20, 21, 22, 23, 24, 25, 26, 27, 28, 28, 29, 30, 31, 32],
    [33, 34, 35, 36, 36, 37, 38, 39, 40, 41, 42, 43, 44, 44, 45, 46, 47, 48],
    [49, 50, 51, 52, 52, 53, 54, 55, 56, 57, 58, 59, 60, 60, 61, 62, 63, 64],
]


def randomised(network: nn.Module) -> nn.Module:
    """Weights and statistics of batch norms drawn at random, but so that activations neither die nor grow."""
    torch.manual_seed(0)
    for name, module in network.named_modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor, low, high in (
                (module.weight, 0.5, 1.5),
                (module.bias, -0.3, 0.3),
                (module.running_mean, -0.3, 0.3),
                (module.running_var, 0.5, 2.0),
            ):
                assert tensor is not None
                nn.init.uniform_(tensor, low, high)
            if name.endswith("bn3"):
                nn.init.uniform_(module.weight, 0.05, 0.2)
    return network.eval()


@pytest.fixture(scope="module")
def network() -> PyramidNet:
    net = randomised(PyramidNet())
    assert isinstance(net, PyramidNet)
    return net


def reference(state: dict[str, Tensor], x: Tensor) -> Tensor:
    """The network as Han et al. 2017 draw it, from nothing but its tensors; logits (N, classes)."""

    def norm(name: str, x: Tensor) -> Tensor:
        mean, variance, weight, bias = (
            state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / torch.sqrt(variance + 1e-5) * weight + bias

    x = norm("bn1", F.conv2d(x, state["conv1.weight"], padding=1))
    for group in (1, 2, 3):
        for number in range(18):
            name, stride = f"layer{group}.{number}", 2 if group > 1 and number == 0 else 1
            y = F.conv2d(norm(f"{name}.bn1", x), state[f"{name}.conv1.weight"], stride=stride, padding=1)
            y = F.conv2d(norm(f"{name}.bn2", y).clamp(min=0), state[f"{name}.conv2.weight"], padding=1)
            y = norm(f"{name}.bn3", y)
            if stride == 2:
                x = F.avg_pool2d(x, 2, 2, ceil_mode=True)
            x = y + torch.cat([x, x.new_zeros(len(x), y.shape[1] - x.shape[1], *x.shape[2:])], dim=1)
    pooled = F.avg_pool2d(norm("bn_out", x).clamp(min=0), 8).flatten(1)
    return pooled @ state["fc_out.weight"].T + state["fc_out.bias"]


def test_ten_classes_make_1772706_parameters() -> None:
    assert sum(parameter.numel() for parameter in PyramidNet().parameters()) == 1_772_706
    assert sum(parameter.numel() for parameter in PyramidNet(7).parameters()) == 1_772_706 - 3 * 65


def test_each_block_has_the_papers_channels_and_strides(network: PyramidNet) -> None:
    before = 16
    for number, (layer, channels) in enumerate(
        zip((network.layer1, network.layer2, network.layer3), CHANNELS, strict=True)
    ):
        for index, (block, after) in enumerate(zip(layer, channels, strict=True)):
            assert isinstance(block, Block)
            assert block.conv1.weight.shape == (after, before, 3, 3)
            assert block.conv2.weight.shape == (after, after, 3, 3)
            assert block.conv1.stride == ((2, 2) if number > 0 and index == 0 else (1, 1))
            before = after


def test_names_are_those_of_a_checkpoint_with_this_layout(network: PyramidNet) -> None:
    norm = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    wanted = {"conv1.weight", "fc_out.weight", "fc_out.bias"}
    wanted |= {f"{name}.{part}" for name in ("bn1", "bn_out") for part in norm}
    for block in (f"layer{group}.{number}" for group in (1, 2, 3) for number in range(18)):
        wanted |= {f"{block}.conv1.weight", f"{block}.conv2.weight"}
        wanted |= {f"{block}.bn{number}.{part}" for number in (1, 2, 3) for part in norm}
    assert set(network.state_dict()) == wanted


def test_logits_equal_those_of_a_forward_pass_written_from_the_paper(network: PyramidNet) -> None:
    image = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        logits, wanted = network(image), reference(network.state_dict(), image)
    assert wanted.std() > 0.1  # pictures and classes are told apart, so that there is something to compare
    assert (logits - wanted).abs().max() <= 1e-5 * max(1.0, float(wanted.abs().max()))


def test_stages_one_after_the_other_are_the_network(network: PyramidNet) -> None:
    x = image = torch.randn(2, 3, 32, 32)
    shapes = {}
    with torch.inference_mode():
        for name, stage in network.stages():
            network.get_submodule(name)
            x = stage(x)
            shapes[name] = tuple(x.shape[1:])
        assert torch.allclose(x, network(image), atol=1e-5)
    assert shapes["layer1"] == (32, 32, 32)
    assert shapes["layer2"] == (48, 16, 16)
    assert shapes["layer3"] == (64, 8, 8)


def check(network: PyramidNet, layer: str, explained: NetworkWithMaps) -> None:
    """Compiled maps and logits are autograd's, for the predicted class and given ones."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(4))
    targets, contrasts = torch.tensor([-1, 3, 9]), torch.tensor([-1, 2, 0])
    assert set(explained.state_dict()) == set(network.state_dict())
    with torch.inference_mode():
        logits, *maps = explained(images, targets, contrasts)
    autograd = AutogradExplainer(copy.deepcopy(network), layer)
    wanted = autograd.run(images.numpy(), targets.numpy(), frozenset(METHOD_NAMES), contrasts.numpy())
    assert np.abs(logits.numpy() - wanted.logits).max() <= 1e-4 * np.abs(wanted.logits).max()
    for method, found in zip(METHODS, maps, strict=True):
        limit = 1e-4 * wanted.maps[method].max()
        assert limit > 0
        assert np.abs(found.numpy() - wanted.maps[method]).max() <= limit, method


def test_compiled_after_layer3_it_explains_as_autograd_does(network: PyramidNet) -> None:
    check(network, "layer3", NetworkWithMaps(network, "layer3", (32, 32)))


@pytest.fixture(scope="module")
def shortened() -> tuple[PyramidNet, NetworkWithMaps]:
    """The last group with its first block alone, that of stride 2, cut before it: tracing all 18 takes a minute."""
    net = PyramidNet()
    net.layer1, net.layer2 = nn.Sequential(nn.Conv2d(16, 32, 1)), nn.Sequential(nn.Conv2d(32, 48, 3, 2, 1))
    net.layer3, net.bn_out, net.fc_out = net.layer3[:1], nn.BatchNorm2d(49), nn.Linear(49, 10)
    randomised(net)
    return net, NetworkWithMaps(net, "layer2", (32, 32))


def test_compiled_after_layer2_it_explains_as_autograd_does(shortened: tuple[PyramidNet, NetworkWithMaps]) -> None:
    check(shortened[0], "layer2", shortened[1])


def test_its_explanations_can_be_written_as_onnx(shortened: tuple[PyramidNet, NetworkWithMaps]) -> None:
    inputs = {"image": torch.zeros(2, 3, 32, 32), "target": torch.tensor([-1, 0])}
    inputs["contrast"] = torch.tensor([-1, 1])
    graph = trace_to_onnx(shortened[1], inputs, ["logits", *METHOD_NAMES])
    assert {node.domain for node in graph.graph.node} <= {""}  # no operator that only PyTorch has
