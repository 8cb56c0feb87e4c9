"""Maps at several layers from one pass are those of one layer at a time; random weights replace those named alone."""

import copy
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from explain.autograd import AutogradExplainer
from explain.base import METHOD_NAMES
from explain.methods import METHODS, cam
from export import layer_maps
from export.layer_maps import AGAINST, maps_at_layers, randomised_networks
from models.card import ImageCard
from tests.explain.nets import SIZE, SmallNet

LAYERS = ("early", "middle", "late")
PICTURES = np.random.default_rng(3).standard_normal((11, 3, *SIZE)).astype(np.float32)  # more than one batch


class Negated(nn.Module):
    """The same network with its logits negated."""

    def __init__(self) -> None:
        super().__init__()
        self.network = SmallNet()

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return cast(torch.Tensor, -self.network(image))


def test_maps_equal_those_of_one_layer_at_a_time() -> None:
    targets = np.arange(len(PICTURES), dtype=np.int64) % 3
    own, opposite = maps_at_layers(SmallNet(), LAYERS, PICTURES, targets)
    for layer in LAYERS:
        single = AutogradExplainer(SmallNet(), layer).run(PICTURES, targets, frozenset(METHOD_NAMES))
        negated = AutogradExplainer(Negated(), f"network.{layer}").run(PICTURES, targets, frozenset(METHOD_NAMES))
        for method in METHOD_NAMES:
            for maps, expected in ((own, single.maps[method]), (opposite, negated.maps[method])):
                assert maps[layer, method] == pytest.approx(expected, abs=1e-5 * float(expected.max()))


def test_maps_against_the_others_are_grad_cams_of_their_logits_together() -> None:
    net, picture = SmallNet(), torch.from_numpy(PICTURES[:1])
    activations = nn.Sequential(net.stem, net.early, net.middle)(picture).detach().requires_grad_()
    others = net.head(net.late(activations))[0, [0, 2]]
    (gradient,) = torch.autograd.grad(-torch.log(torch.exp(others).sum()), activations)
    expected = cam(METHODS["gradcam"], activations, gradient).detach().numpy()
    own, _ = maps_at_layers(net, ["middle"], PICTURES[:1], np.array([1]))
    assert own["middle", AGAINST] == pytest.approx(expected, abs=1e-5)
    assert expected.max() > 0


def test_only_the_named_weights_are_random(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_maps, "build", lambda card: SmallNet(torch.initial_seed() + 5))
    net = SmallNet()
    before = copy.deepcopy(net.state_dict())
    first, second = randomised_networks(cast(ImageCard, None), net, ["head."], 2)
    for name, trained in before.items():
        assert torch.equal(net.state_dict()[name], trained)
        is_same = [torch.equal(mixed.state_dict()[name], trained) for mixed in (first, second)]
        assert is_same == [not name.startswith("head.")] * 2
    assert not torch.equal(first.state_dict()["head.2.weight"], second.state_dict()["head.2.weight"])
