"""The inside of the Grad-CAM runner, with the small network."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from errors import InvalidImage, Unavailable
from explain.autograd import AutogradExplainer
from explain.onnx import OnnxExplainer
from models.card import read_card
from models.package import MANIFEST, StoredModel, files_of
from runners.explained import Ask, ExplainedModel, ExplainedModels, new_explainer
from runners.served import RunnerOptions
from tests.explain.nets import SmallNet
from tests.explain.package import coloured, small_net, small_package, tensor_of


def stored(package: Path) -> StoredModel:
    written = {"name": "small", "version": "0" * 16, "files": files_of(package)}
    (package / MANIFEST).write_text(json.dumps(written))
    return StoredModel(read_card(package / "card.toml"), "0" * 16, package)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("small") / "small")


def ask(data: bytes, **options: Any) -> Ask:
    return replace(Ask(data, -1, "layercam", "map", 0.5, at_input_size=False), **options)


def test_items_of_one_batch_keep_their_own_targets_and_methods(package: Path) -> None:
    model = ExplainedModel(stored(package))
    model.load(RunnerOptions(max_batch=8), 1)
    assert (model.state, model.detail) == ("ready", "")
    asks = [
        ask(coloured(seed), target=seed % 4 - 1, method=method)
        for seed in range(4)
        for method in ("gradcam", "hirescam")
    ]
    futures = [model.submit(each, time.monotonic() + 30) for each in asks]
    reference = AutogradExplainer(small_net(), "middle")
    for each, future in zip(asks, futures, strict=True):
        got = future.result(30).value
        wanted = reference.run(tensor_of(each.data, package), np.array([each.target]), frozenset({each.method}))
        assert np.abs(got.map - wanted.maps[each.method][0]).max() <= 1e-4 * wanted.maps[each.method].max()
        assert np.allclose(got.logits, wanted.logits[0], atol=1e-4)
        assert got.target == (wanted.logits[0].argmax() if each.target < 0 else each.target)
    with pytest.raises(InvalidImage):
        model.submit(ask(b"no picture"), None).result(30)
    assert model.close(5)
    assert not [thread for thread in threading.enumerate() if "small/explain" in thread.name]
    with pytest.raises(Unavailable):
        model.submit(asks[0], None)


def test_the_compiled_graph_is_used_and_autograd_where_there_is_none(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.export.build", lambda card: SmallNet())
    assert isinstance(new_explainer(stored(package), 4)[0], OnnxExplainer)
    without = stored(small_package(tmp_path / "small", explained=False))
    explainer, lanes = new_explainer(without, 4)
    assert (type(explainer), lanes) == (AutogradExplainer, 1)
    data = tensor_of(coloured(5), package)
    a, b = (
        each.run(data, np.array([1]), frozenset({"gradcam++"}))
        for each in (explainer, new_explainer(stored(package), 1)[0])
    )
    assert np.abs(a.maps["gradcam++"] - b.maps["gradcam++"]).max() <= 1e-4 * a.maps["gradcam++"].max()


def test_a_damaged_explain_graph_fails_alone_and_says_so(package: Path, tmp_path: Path) -> None:
    broken = stored(small_package(tmp_path / "small"))
    graph = broken.path / "explain.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    model = ExplainedModel(broken)
    model.load(RunnerOptions(), 1)
    assert model.state == "failed"
    assert "explain.onnx is damaged" in model.detail
    with pytest.raises(Unavailable, match="damaged"):
        model.submit(ask(coloured(1)), None)


def test_a_graph_of_other_weights_is_found_by_the_goldens(tmp_path: Path) -> None:
    package = small_package(tmp_path / "small")
    weights = bytearray((package / "weights.safetensors").read_bytes())
    weights[-200:] = bytes(200)
    (package / "weights.safetensors").write_bytes(weights)
    model = ExplainedModel(stored(package))
    model.load(RunnerOptions(), 1)
    assert model.state == "failed"
    assert "golden" in model.detail


def test_the_status_tells_state_and_counts(package: Path) -> None:
    models = ExplainedModels([stored(package)], RunnerOptions())
    models.start()
    deadline = time.monotonic() + 30
    while models.status()["small"]["state"] != "ready" and time.monotonic() < deadline:
        time.sleep(0.02)
    models.get("small").submit(ask(coloured(1)), None).result(30)
    stats = models.status()["small"]["stats"]
    assert isinstance(stats, dict)
    assert stats["succeeded"] == 1
    assert models.close(5)
