"""The rules of single operators, in ends of networks that PyTorch's autograd differentiates too."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.explain.graph.exported import Cut, assert_equals_autograd

ACTIVATIONS = [
    *(nn.ReLU(), nn.LeakyReLU(0.2), nn.ELU(), nn.ReLU6(), nn.Sigmoid(), nn.Tanh(), nn.Hardsigmoid(), nn.Hardswish()),
    *(nn.Softplus(), nn.GELU(), nn.SiLU(), nn.Mish()),
]


class Function(nn.Module):
    """A function as a module, so that it can stand between others."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.function(x)
        return result


def head(features: int = 4) -> list[nn.Module]:
    return [nn.Flatten(), nn.Linear(features, 3)]


class Excited(nn.Module):
    """Squeeze-and-excitation, whose factors are broadcast."""

    def __init__(self) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(self.squeeze(x.mean((2, 3), keepdim=True)))


def channels_normed(x: Tensor) -> Tensor:
    return F.layer_norm(x.permute(0, 2, 3, 1), (4,), torch.arange(1.0, 5), eps=1e-3).permute(0, 3, 1, 2)


def share_of_length(x: Tensor) -> Tensor:
    pooled = x.mean((2, 3))
    return pooled / (pooled * pooled).sum(1, keepdim=True).sqrt().expand_as(pooled)


def generalised_mean(x: Tensor) -> Tensor:
    return x.clamp(min=1e-3).pow(3).mean((2, 3)).pow(1 / 3)


class Attention(nn.Module):
    """Attention of two heads over the cells, and a mean that leaves the first cell out."""

    def __init__(self) -> None:
        super().__init__()
        self.all_three = nn.Linear(4, 12)

    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        parts = self.all_three(tokens).unflatten(2, (3, 2, 2)).permute(2, 0, 3, 1, 4)
        query, key, value = parts[0], parts[1], parts[-1]
        attended = (query @ key.transpose(2, 3)).softmax(-1) @ value
        pooled: Tensor = attended.transpose(1, 2).flatten(2)[:, 1:].mean(1)
        return pooled


def in_parts(x: Tensor) -> Tensor:
    left, right = x.chunk(2, 1)
    last: Tensor = torch.ops.aten.split_with_sizes(x, [3, 1], 1)[1]
    return torch.cat([left.sigmoid() * right, right * last.exp()], 1).mean((2, 3))


def normed_by_softmax(x: Tensor) -> Tensor:
    """A softmax over an axis in between, and matrices that are both computed, one of them shared by all."""
    shares = x.flatten(2).softmax(1)
    return (x.flatten(2) @ shares.transpose(1, 2) @ torch.eye(4)[:, 1:]).sum(1)


ENDS = {
    "a mean over the map": [nn.AdaptiveAvgPool2d(1), *head()],
    "a mean over two axes": [Function(lambda x: x.mean((2, 3))), *head()],
    "a mean over one axis after the other": [Function(lambda x: x.mean(3).mean(2)), *head()],
    "a sum": [Function(lambda x: x.sum((2, 3))), *head()],
    "the largest value": [nn.AdaptiveMaxPool2d(1), *head()],
    "the largest value along axes": [Function(lambda x: x.amax((2, 3))), *head()],
    "mean and largest value side by side": [
        Function(lambda x: torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1)),
        *head(8),
    ],
    "the mean of mean and largest value": [Function(lambda x: 0.5 * (x.mean((2, 3)) + x.amax((2, 3)))), *head()],
    "average pooling": [nn.AvgPool2d(2), *head(4 * 3 * 4)],
    "average pooling that overlaps": [nn.AvgPool2d(3, 2, 1), *head(4 * 3 * 4)],
    "a strided convolution": [nn.Conv2d(4, 6, 3, 2, 1), nn.AdaptiveAvgPool2d(1), *head(6)],
    "a convolution that leaves an edge over": [nn.Conv2d(4, 6, 3, (2, 3)), *head(6 * 2 * 2)],
    "a grouped and dilated convolution": [nn.Conv2d(4, 8, 3, 1, (2, 1), (2, 1), groups=4), *head(8 * 6 * 8)],
    "a hidden layer": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5), nn.Hardswish(), nn.Linear(5, 3)],
    "a batch norm": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(4), nn.Linear(4, 3)],
    "a batch norm of a map": [nn.Tanh(), nn.BatchNorm2d(4), nn.SiLU(), nn.AdaptiveAvgPool2d(1), *head()],
    "a layer norm": [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4, 1e-3), nn.Linear(4, 3)],
    "a layer norm of a map": [Function(channels_normed), nn.AdaptiveAvgPool2d(1), *head()],
    "squeeze and excitation": [Excited(), nn.AdaptiveAvgPool2d(1), *head()],
    "powers": [Function(generalised_mean), *head()],
    "quotients and differences": [Function(lambda x: (x / (2 + x * x) - x.mean((2, 3), True)).amax((2, 3))), *head()],
    "a share of the length": [Function(share_of_length), *head()],
    "attention": [Attention(), *head()],
    "parts": [Function(in_parts), *head()],
    "products of computed matrices": [Function(normed_by_softmax), *head(3)],
    "a cut at the end and in between": [Function(lambda x: x[:, :, 1:-2, -3:].tanh().mean((2, 3))), *head()],
    "average pooling that rounds up where nothing is left over": [nn.AvgPool2d(2, ceil_mode=True), *head(4 * 3 * 4)],
    "exponentials": [Function(lambda x: (1 - torch.exp(-x.abs())).mean((2, 3))), *head()],
}


def test_activations_are_differentiated_exactly() -> None:
    """All side by side, each with weights of its own; three times x reaches beyond where hard ones bend."""
    torch.manual_seed(2)
    pooled = Function(lambda x: torch.cat([activation(3 * x).mean((2, 3)) for activation in ACTIVATIONS], 1))
    assert_equals_autograd(Cut(nn.Sequential(pooled, *head(4 * len(ACTIVATIONS)))), (6, 8))


@pytest.mark.parametrize("name", ENDS)
def test_an_end_is_differentiated_exactly(name: str) -> None:
    torch.manual_seed(3)
    end = nn.Sequential(*ENDS[name])
    for module in end.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for values, low in ((module.running_mean, -0.5), (module.running_var, 0.5), (module.weight, 0.5)):
                assert values is not None
                nn.init.uniform_(values, low, low + 1)
    assert_equals_autograd(Cut(end), (6, 8))


@pytest.mark.parametrize("opset", [11, 13, 18, 20])
def test_graphs_of_older_and_newer_operators_are_differentiated(opset: int) -> None:
    torch.manual_seed(4)
    end = nn.Sequential(nn.Hardswish(), Function(lambda x: x.mean((2, 3))), *head())
    assert_equals_autograd(Cut(end), (6, 8), opset=opset)
