import pytest
import torch
from torch import nn

from errors import NotCompilable
from explain.compile import NetworkWithMaps, convolution_input_gradient
from tests.explain.nets import SIZE, SmallNet


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "dilation", "groups", "size"),
    [
        (1, 1, 0, 1, 1, 9),
        (3, 1, 1, 1, 1, 9),
        (3, 2, 1, 1, 1, 9),
        (3, 2, 1, 1, 1, 10),
        (5, 2, 2, 1, 4, 14),
        (3, 1, 2, 2, 2, 11),
        (2, 2, 0, 1, 1, 7),
        ((3, 5), (1, 2), (1, 2), 1, 2, 12),
    ],
)
def test_the_gradient_of_a_convolution_equals_autograds(kernel, stride, padding, dilation, groups, size) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    conv = nn.Conv2d(4, 8, kernel, stride, padding, dilation, groups)
    x = torch.randn(2, 4, size, size, requires_grad=True)
    y = conv(x)
    gradient = torch.randn_like(y)
    (expected,) = torch.autograd.grad(y, x, gradient)
    strides, paddings, dilations = (
        option if isinstance(option, tuple) else (option, option) for option in (stride, padding, dilation)
    )
    actual, *_ = convolution_input_gradient(
        gradient, x, conv.weight, None, strides, paddings, dilations, False, None, groups, None
    )
    assert actual.shape == expected.shape
    assert torch.allclose(actual, expected, atol=1e-5)


def test_a_batch_equals_its_items() -> None:
    network = NetworkWithMaps(SmallNet(), "middle", SIZE)
    image, target = torch.randn(5, 3, *SIZE), torch.tensor([-1, 0, 1, 2, -1])
    contrast = torch.tensor([-1, -1, 0, 1, 2])
    with torch.no_grad():
        of_batch = network(image, target, contrast)
        of_items = [network(*(values[index : index + 1] for values in (image, target, contrast))) for index in range(5)]
    for output, parts in zip(of_batch, zip(*of_items, strict=True), strict=True):
        assert torch.allclose(output, torch.cat(parts), atol=1e-6)


def test_the_network_that_is_compiled_is_left_as_it_was() -> None:
    net, image = SmallNet(), torch.randn(2, 3, *SIZE)
    before, hooks = net(image), [len(module._forward_hooks) for module in net.modules()]
    NetworkWithMaps(net, "late", SIZE)
    assert torch.equal(net(image), before)
    assert [len(module._forward_hooks) for module in net.modules()] == hooks
    assert all(parameter.requires_grad for parameter in net.parameters())


def test_parameters_keep_the_networks_names() -> None:
    net = SmallNet()
    assert set(NetworkWithMaps(net, "late", SIZE).state_dict()) == set(net.state_dict())


def test_an_unknown_layer_is_refused_with_those_that_can_be_named() -> None:
    with pytest.raises(NotCompilable, match=r"stem, early, middle, late$"):
        NetworkWithMaps(SmallNet(), "head.9", SIZE)


def test_a_network_that_cannot_be_cut_says_so() -> None:
    with pytest.raises(NotCompilable, match="no `stages"):
        NetworkWithMaps(nn.Sequential(nn.Conv2d(3, 4, 1)), "0", SIZE)


def test_a_transposed_convolution_cannot_be_compiled() -> None:
    class Up(SmallNet):
        def __init__(self) -> None:
            super().__init__()
            self.late = nn.Sequential(nn.ConvTranspose2d(16, 24, 2, 2))

    with pytest.raises(NotCompilable, match="transposed"):
        NetworkWithMaps(Up(), "middle", SIZE)
