"""The ONNX backend against NumPy."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backends.onnx import OnnxBackend
from tests.tiny import WEIGHT, tiny_package


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("items", [1, 3, 8])
def test_a_batch_is_its_items_also_where_the_graph_takes_one_at_a_time(
    tmp_path: Path, batch: int | None, items: int
) -> None:
    backend = OnnxBackend(tiny_package(tmp_path / "p", batch=batch) / "predict.onnx")
    images = np.random.default_rng(0).normal(size=(items, 3, 16, 16)).astype(np.float32)
    logits = backend.run(images)
    assert logits.shape == (items, 2) and logits.dtype == np.float32
    assert np.allclose(logits, images.mean((2, 3)) @ WEIGHT, atol=1e-5)
    backend.close()


def test_one_session_serves_many_threads(tmp_path: Path) -> None:
    backend = OnnxBackend(tiny_package(tmp_path / "p") / "predict.onnx")
    images = np.random.default_rng(0).normal(size=(64, 1, 3, 16, 16)).astype(np.float32)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(backend.run, images))
    assert np.allclose(np.concatenate(answers), images[:, 0].mean((2, 3)) @ WEIGHT, atol=1e-5)
