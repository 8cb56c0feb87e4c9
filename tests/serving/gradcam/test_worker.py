"""The inside of the Grad-CAM runner, with the small network."""

import json
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from errors import InvalidImage, NoExplanation, Unavailable
from explain.autograd import AutogradExplainer
from explain.onnx import OnnxExplainer
from models.card import read_card
from models.package import MANIFEST, StoredModel, files_of
from postprocessing.interpret import interpret
from serving.gradcam.worker import Ask, ExplainedModel, ExplainedModels, new_explainer
from serving.loaded_model import RunnerOptions
from tests.conftest import encode
from tests.explain.nets import SmallNet
from tests.explain.package import coloured, small_net, small_package, tensor_of

TAG = f"small:{'0' * 16}"


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
    batches = list[int]()
    for each, future in zip(asks, futures, strict=True):
        batches.append(future.result(30).batch_size)
        got = future.result(30).value
        wanted = reference.run(tensor_of(each.data, package), np.array([each.target]), frozenset({each.method}))
        assert np.abs(got.map - wanted.maps[each.method][0]).max() <= 1e-4 * wanted.maps[each.method].max()
        assert np.allclose(got.logits, wanted.logits[0], atol=1e-4)
        assert got.target == (wanted.logits[0].argmax() if each.target < 0 else each.target)
    assert max(batches) > 1
    with pytest.raises(InvalidImage):
        model.submit(ask(b"no picture"), None).result(30)
    assert model.close(5)
    assert not [thread for thread in threading.enumerate() if "small/explain" in thread.name]
    with pytest.raises(Unavailable):
        model.submit(asks[0], None)


def test_the_compiled_graph_is_used_and_autograd_where_there_is_none(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
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


def test_on_an_accelerator_what_waits_is_explained_together(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    model = ExplainedModel(stored(package))
    model.load(RunnerOptions(device="torch-cpu"), 2)
    assert (model.state, model.detail) == ("ready", "")
    futures = [model.submit(ask(coloured(seed)), None) for seed in range(12)]
    answers = [future.result(30) for future in futures]
    assert max(answer.batch_size for answer in answers) > 1
    reference = AutogradExplainer(small_net(), "middle")
    for seed, answer in enumerate(answers):
        wanted = reference.run(tensor_of(coloured(seed), package), np.array([-1]), frozenset({"layercam"}))
        assert np.abs(answer.value.map - wanted.maps["layercam"][0]).max() <= 1e-4 * wanted.maps["layercam"].max()
    assert model.close(5)


def test_where_a_threshold_decides_the_class_it_calls_is_explained(package: Path) -> None:
    plain = stored(package)
    green = plain.card.model_copy(update={"positive_label": "green", "threshold": 0.5})
    model = ExplainedModel(replace(plain, card=green))
    model.load(RunnerOptions(max_batch=8), 1)
    reference, data = AutogradExplainer(small_net(), "middle"), coloured(3)
    for threshold in (1e-9, 1.0, 0.5):
        got = model.submit(ask(data, threshold=threshold), None).result(30).value
        called = interpret(got.logits, model.card, threshold=threshold).class_id
        assert got.target == called
        wanted = reference.run(tensor_of(data, package), np.array([called]), frozenset({"layercam"})).maps["layercam"][
            0
        ]
        assert np.abs(got.map - wanted).max() <= 1e-4 * wanted.max()
    assert model.close(5)


@pytest.mark.parametrize("size", [(70_000, 8), (4100, 4100)])
def test_a_picture_too_large_to_draw_on_is_told_so_and_its_map_is_still_to_be_had(
    package: Path, size: tuple[int, int]
) -> None:
    model = ExplainedModel(stored(package))
    model.load(RunnerOptions(), 1)
    data = encode(Image.new("RGB", size, (9, 99, 199)))
    with pytest.raises(NoExplanation, match="size=input"):
        model.submit(ask(data, output="overlay"), None).result(30)
    assert model.submit(ask(data, output="overlay", at_input_size=True), None).result(30).value.picture
    assert model.submit(ask(data), None).result(30).value.size == size
    assert model.close(5)


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
    while models.status()[TAG]["state"] != "ready" and time.monotonic() < deadline:
        time.sleep(0.02)
    models.get(TAG).submit(ask(coloured(1)), None).result(30)
    stats = models.status()[TAG]["stats"]
    assert isinstance(stats, dict)
    assert stats["succeeded"] == 1
    assert models.close(5)
