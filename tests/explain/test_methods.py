from functools import cache

import numpy as np
import pytest
import torch
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

from explain.autograd import AutogradExplainer
from explain.base import NO_CONTRAST
from explain.compile import NetworkWithMaps
from explain.methods import METHODS, cam
from tests.explain.grad_cam_package import PACKAGE, Target, package_maps
from tests.explain.nets import CLASSES, SIZE, SmallNet


def difference(class_id: int, contrast: int) -> Target:
    return lambda logits: logits[class_id] - logits[contrast]


def test_every_method_has_a_reference() -> None:
    assert set(PACKAGE) == set(METHODS)


@cache
def compiled(layer: str) -> NetworkWithMaps:
    """Tracing takes a second, so the tests of all methods share one traced network for each layer."""
    return NetworkWithMaps(SmallNet(), layer, SIZE)


@pytest.mark.parametrize("layer", ["early", "middle", "late"])
@pytest.mark.parametrize("method", sorted(METHODS))
def test_maps_equal_those_of_the_grad_cam_package(layer: str, method: str) -> None:
    net = SmallNet()
    explainer = AutogradExplainer(SmallNet(), layer)
    for size in (1, 3, 8):
        image = torch.randn(size, 3, *SIZE, generator=torch.Generator().manual_seed(size))
        target = torch.arange(size) % (CLASSES + 1) - 1  # mixed, the predicted one among them
        predicted = net(image).argmax(1)
        classes = torch.where(target < 0, predicted, target).tolist()
        scores = [ClassifierOutputTarget(class_id) for class_id in classes]
        expected = package_maps(SmallNet(), layer, method, image, scores)
        with torch.no_grad():
            logits, *maps = compiled(layer)(image, target, torch.full_like(target, NO_CONTRAST))
        by_graph = maps[list(METHODS).index(method)].numpy()
        by_autograd = explainer.run(image.numpy(), target.numpy(), frozenset({method})).maps[method]
        for actual in (by_graph, by_autograd):
            assert actual.shape == expected.shape
            assert np.abs(actual - expected).max() <= 1e-4 * expected.max()
        assert torch.allclose(logits, net(image), atol=1e-5)


@pytest.mark.parametrize("method", sorted(METHODS))
def test_maps_of_a_contrast_equal_those_of_the_grad_cam_package(method: str) -> None:
    net, target, contrast = SmallNet(), torch.tensor([0, 2, 1]), torch.tensor([1, 0, 2])
    image = torch.randn(3, 3, *SIZE, generator=torch.Generator().manual_seed(9))
    pairs = zip(target.tolist(), contrast.tolist(), strict=True)
    expected = package_maps(SmallNet(), "middle", method, image, [difference(*pair) for pair in pairs])
    with torch.no_grad():
        maps = compiled("middle")(image, target, contrast)[1:]
    by_graph = maps[list(METHODS).index(method)].numpy()
    explainer = AutogradExplainer(net, "middle")
    by_autograd = explainer.run(image.numpy(), target.numpy(), frozenset({method}), contrast.numpy()).maps[method]
    for actual in (by_graph, by_autograd):
        assert np.abs(actual - expected).max() <= 1e-4 * expected.max()


def test_a_case_solved_by_hand() -> None:
    """One channel pair of 2 x 2 activations, mean pooling, one linear row (2, -4): g is 2/4 and -4/4 everywhere."""
    activations = torch.tensor([[[[4.0, 0.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 3.0]]]])
    gradients = torch.tensor([0.5, -1.0])[None, :, None, None].expand(1, 2, 2, 2)
    # Grad-CAM and HiResCAM: 0.5 A_0 - A_1, then ReLU. LayerCAM: 0.5 A_0.
    positive_only = [[[2.0, 0.0], [0.0, 0.0]]]
    for name in ("gradcam", "hirescam", "layercam"):
        assert cam(METHODS[name], activations, gradients).tolist() == positive_only
    # Grad-CAM++: alpha_0 = 0.25 / (2 * 0.25 + 4 * 0.125) = 0.25 at each of 4 places, w_0 = 4 * 0.25 * 0.5 = 0.5;
    # w_1 = 0, since its gradient is negative.
    assert cam(METHODS["gradcam++"], activations, gradients)[0, 0, 0].item() == pytest.approx(2.0, rel=1e-5)
    assert cam(METHODS["gradcam++"], activations, gradients).sum().item() == pytest.approx(2.0, rel=1e-5)


def test_methods_differ_where_the_signs_of_a_gradient_do() -> None:
    activations = torch.tensor([[[[1.0, 2.0]]]])
    gradients = torch.tensor([[[[3.0, -1.0]]]])
    assert cam(METHODS["gradcam"], activations, gradients).tolist() == [[[1.0, 2.0]]]  # mean gradient 1
    assert cam(METHODS["hirescam"], activations, gradients).tolist() == [[[3.0, 0.0]]]
    assert cam(METHODS["layercam"], activations, gradients).tolist() == [[[3.0, 0.0]]]
