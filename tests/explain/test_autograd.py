import threading

import numpy as np
import pytest

from explain.autograd import AutogradExplainer
from tests.explain.nets import SIZE, SmallNet


def test_hooks_are_gone_after_a_run_and_after_a_failed_one() -> None:
    net = SmallNet()
    explainer = AutogradExplainer(net, "late")
    explainer.run(np.zeros((1, 3, *SIZE), np.float32), np.array([0]), frozenset({"gradcam"}))
    with pytest.raises(RuntimeError):
        explainer.run(np.zeros((1, 4, *SIZE), np.float32), np.array([0]), frozenset({"gradcam"}))
    assert not any(module._forward_hooks for module in net.modules())


def test_a_layer_that_is_not_there_is_refused() -> None:
    with pytest.raises(ValueError, match="no layer 'nowhere'"):
        AutogradExplainer(SmallNet(), "nowhere")


def test_several_threads_get_their_own_maps() -> None:
    explainer = AutogradExplainer(SmallNet(), "middle")
    images = np.random.default_rng(0).normal(size=(6, 3, *SIZE)).astype(np.float32)
    method = frozenset({"layercam"})
    expected = [explainer.run(images[i : i + 1], np.array([1]), method).maps["layercam"] for i in range(6)]
    actual: dict[int, np.ndarray] = {}

    def explain(index: int) -> None:
        actual[index] = explainer.run(images[index : index + 1], np.array([1]), method).maps["layercam"]

    threads = [threading.Thread(target=explain, args=(index,)) for index in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index in range(6):
        assert np.allclose(actual[index], expected[index], atol=1e-6)
