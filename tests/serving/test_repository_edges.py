"""Served models at their edges: small queues, graphs that will not load or compute, and closing twice."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from errors import InferenceFailed, Unavailable
from models.package import StoredModel
from runners.cores import CoreShare
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from serving.options import RunnerOptions
from serving.pipeline import ImagePipeline
from serving.repository import ModelRepository
from tests.tiny import WEIGHT, logits_of_plain, plain, seal, tiny_package

OPTIONS = RunnerOptions()


def served(*models: StoredModel, options: RunnerOptions = OPTIONS) -> ModelRepository:
    loaded = ModelRepository(models, options, default="tiny")
    loaded.start()
    loaded.wait_loaded(30)
    return loaded


def with_weight(folder: Path, value: float) -> Path:
    graph = onnx.load(folder / "predict.onnx")
    graph.graph.initializer[0].CopyFrom(numpy_helper.from_array(np.full((3, 2), value, np.float32), "weight"))
    onnx.save(graph, folder / "predict.onnx")
    return folder


def with_square_root(folder: Path) -> Path:
    """Give the graph a square root, so that dark pictures (means under 0) are not a number."""
    graph = onnx.load(folder / "predict.onnx")
    mean, product = graph.graph.node
    product.input[0] = "root"
    del graph.graph.node[:]
    graph.graph.node.extend([mean, helper.make_node("Sqrt", ["mean"], ["root"]), product])
    onnx.save(graph, folder / "predict.onnx")
    (folder / "goldens" / "10.png").write_bytes(plain(200))
    rows = [
        {"file": name, "logits": (np.full(3, np.sqrt(level / 127.5 - 1)) @ WEIGHT).tolist()}
        for name, level in (("10.png", 200), ("240.png", 240))
    ]
    (folder / "goldens" / "goldens.json").write_text(json.dumps({"tolerance": 1e-3, "goldens": rows}))
    return folder


def test_logits_that_are_not_finite_fail_their_item_and_not_its_batch(tmp_path: Path) -> None:
    models = served(seal(with_square_root(tiny_package(tmp_path / "a"))), options=replace(OPTIONS, max_batch=64))
    levels = [255, 0, 200, 20, 180] * 8
    futures = [models.get().submit(plain(level)) for level in levels]
    for level, future in zip(levels, futures, strict=True):
        if level < 128:
            assert isinstance(future.exception(10), InferenceFailed)
        else:
            assert np.isfinite(future.result(10).value.logits).all()
    assert models.close(10)


def test_the_self_check_needs_no_more_of_the_queue_than_one_client(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a")), options=replace(OPTIONS, queue_size=1, max_batch=8))
    assert models.get().state == "ready", models.get().detail
    assert models.close(10)


def test_the_self_check_is_no_clients_and_is_not_counted(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a")), options=replace(OPTIONS, max_batch=8))
    stats = models.get().stats()
    assert stats is not None and (stats.succeeded, stats.executions, stats.inferences) == (0, 0, 0)
    models.get().submit(plain(200)).result(10)
    stats = models.get().stats()
    assert stats is not None and (stats.succeeded, stats.executions, stats.inferences) == (1, 1, 1)
    assert models.close(10)


def test_a_graph_whose_batch_is_one_is_served_in_batches_all_the_same(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a", batch=1)), options=replace(OPTIONS, max_batch=4))
    futures = [models.get().submit(plain(level)) for level in range(0, 256, 5)]
    for level, future in zip(range(0, 256, 5), futures, strict=True):
        assert np.allclose(future.result(10).value.logits, logits_of_plain(level), atol=1e-5)
    assert models.close(10)


@pytest.mark.parametrize("way", ["not a graph", "not finite", "goldens of another model"])
def test_whatever_fails_at_the_start_says_which_model_and_backend(tmp_path: Path, way: str) -> None:
    folder = tiny_package(tmp_path / "a")
    if way == "not a graph":
        (folder / "predict.onnx").write_bytes(b"no graph")
    elif way == "not finite":
        with_weight(folder, np.nan)
    else:
        written = json.loads((folder / "goldens" / "goldens.json").read_text())
        written["goldens"][0]["logits"] = [1.0, 2.0, 3.0]
        (folder / "goldens" / "goldens.json").write_text(json.dumps(written))
    stored = seal(folder)
    models = served(stored)
    failed = models.get()
    assert failed.state == "failed" and not models.ready
    assert stored.tag in failed.detail and ("OnnxBackend" in failed.detail or "loading the graph" in failed.detail)
    with pytest.raises(Unavailable, match="tiny is failed"):
        failed.submit(plain(1))
    assert models.close(10)


def test_a_model_that_failed_keeps_no_lane_and_closing_twice_is_harmless(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    models = served(seal(with_weight(tiny_package(tmp_path / "a"), 9.0)))
    assert models.get().state == "failed"
    assert set(threading.enumerate()) <= before
    assert models.close(10) and models.close(10)


def test_closing_a_ready_model_twice_is_harmless_and_leaves_no_thread(tmp_path: Path) -> None:
    before = set(threading.enumerate())
    models = served(seal(tiny_package(tmp_path / "a")))
    assert models.close(10) and models.close(10)
    assert set(threading.enumerate()) <= before


def test_what_is_in_flight_is_answered_while_closing(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a")))
    futures = [models.get().submit(plain(level)) for level in range(100)]
    models.drain()
    assert not models.ready and models.closing
    assert models.close(10)
    assert all(future.result(0).value.logits.shape == (2,) for future in futures)


def test_a_deadline_that_has_passed_reaches_no_backend(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a")))
    before = models.get().stats()
    assert models.get().submit(plain(3), time.monotonic() - 1).exception(10) is not None
    after = models.get().stats()
    assert before is not None and after is not None and before.executions == after.executions
    assert models.close(10)


def test_lanes_are_the_only_parallelism(tmp_path: Path) -> None:
    models = served(seal(tiny_package(tmp_path / "a")))
    assert cv2.getNumThreads() == 1
    assert models.close(10)


def test_a_model_that_is_closed_while_it_is_checked_is_waited_for_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, released = threading.Event(), threading.Event()
    infer = ImagePipeline.infer

    def held(self: ImagePipeline, batch: Any) -> Any:
        entered.set()
        assert released.wait(20)
        return infer(self, batch)

    monkeypatch.setattr(ImagePipeline, "infer", held)
    stored = seal(tiny_package(tmp_path / "a"))
    model = LoadedModel(stored.card, stored, PREDICTION)
    loading = threading.Thread(target=model.load, args=(OPTIONS, CoreShare(1)))
    loading.start()
    assert entered.wait(20)
    assert not model.close(0.05), "a lane is at work"
    assert model.state == "draining"
    released.set()
    loading.join(20)
    assert model.close(20) and model.state == "draining"
    with pytest.raises(Unavailable, match="draining"):
        model.submit(plain(1))
