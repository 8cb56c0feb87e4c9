"""The ONNX backend against NumPy."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from backends.onnx import OnnxBackend, narrowest_width
from tests.tiny import WEIGHT, tiny_package


@pytest.mark.parametrize("batch", [None, 1])
@pytest.mark.parametrize("items", [1, 3, 8])
def test_a_batch_is_its_items_also_where_the_graph_takes_one_at_a_time(
    tmp_path: Path, batch: int | None, items: int
) -> None:
    backend = OnnxBackend(tiny_package(tmp_path / "p", batch=batch) / "predict.onnx")
    images = np.random.default_rng(0).normal(size=(items, 3, 16, 16)).astype(np.float32)
    logits = backend.run(images).logits
    assert logits.shape == (items, 2) and logits.dtype == np.float32
    assert np.allclose(logits, images.mean((2, 3)) @ WEIGHT, atol=1e-5)
    backend.close()


def test_one_session_serves_many_threads(tmp_path: Path) -> None:
    backend = OnnxBackend(tiny_package(tmp_path / "p") / "predict.onnx")
    images = np.random.default_rng(0).normal(size=(64, 1, 3, 16, 16)).astype(np.float32)
    with ThreadPoolExecutor(8) as pool:
        answers = [outputs.logits for outputs in pool.map(backend.run, images)]
    assert np.allclose(np.concatenate(answers), images[:, 0].mean((2, 3)) @ WEIGHT, atol=1e-5)


def test_whatever_width_a_run_gets_the_logits_are_the_same(tmp_path: Path) -> None:
    images, backend = np.ones((2, 3, 16, 16), np.float32), OnnxBackend(tiny_package(tmp_path / "p") / "predict.onnx")
    for free in (1, 2, 3, 4, 9):
        backend.widen((4, 2), lambda free=free: free)  # type: ignore[misc]
        assert np.allclose(backend.run(images).logits, images.mean((2, 3)) @ WEIGHT, atol=1e-5)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 3), (3, 3), (4, 8), (8, 8), (9, 8)])
def test_a_run_takes_the_fewest_threads_that_keep_its_cores_busy(cores: int, threads: int) -> None:
    assert narrowest_width((3, 8, 1), cores) == threads
