"""The inside of the Grad-CAM runner, with the small network."""

import asyncio
import json
import shutil
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from errors import InvalidImage, NoExplanation, NotFound, Unavailable
from explain.autograd import AutogradExplainer
from explain.base import PREDICTED, Explainer, ExplainerOutputs, Float32Array, Int64Array
from explain.onnx import OnnxExplainer
from models.card import ImageCard, read_card
from models.package import EXPLAIN, MANIFEST, StoredModel, file_digests
from postprocessing.classification import classify
from preprocessing.prepare import prepare
from runners.cores import CoreShare
from runners.runner import Answer
from serving.gradcam import worker
from serving.gradcam.process import ExplanationProcess
from serving.gradcam.wire import ExplanationRequest, answers_from_fields
from serving.gradcam.worker import EXPLANATION, load_explainer, load_explanation
from serving.loaded_model import LoadedModel
from serving.options import RunnerOptions
from tests.conftest import encode
from tests.explain.nets import SmallNet
from tests.explain.package import coloured, small_net, small_package, tensor_of

TAG = f"small:{'0' * 16}"


def stored(package: Path) -> StoredModel:
    written = {"name": "small", "version": "0" * 16, "files": file_digests(package)}
    (package / MANIFEST).write_text(json.dumps(written))
    return StoredModel(read_card(package / "card.toml"), "0" * 16, package)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_package(tmp_path_factory.mktemp("small") / "small")


def explained(stored: StoredModel, options: RunnerOptions, *, cores: int = 1) -> LoadedModel:
    """A model that was loaded as the Grad-CAM process loads it."""
    model = LoadedModel(stored.card, stored, EXPLANATION)
    model.load(options, CoreShare(cores))
    return model


def ask(data: bytes, **options: Any) -> ExplanationRequest:
    return replace(ExplanationRequest(data, (), "layercam", "map", 0.5, at_input_size=False), **options)


def test_items_of_one_batch_keep_their_own_targets_methods_and_contrasts(package: Path) -> None:
    model = explained(stored(package), RunnerOptions(max_batch=8), cores=1)
    assert (model.state, model.detail) == ("ready", "")
    requests = [
        ask(coloured(seed), targets=(seed - 1,) if seed else (), method=method, contrast=(-1, 2, -1, 0)[seed])
        for seed in range(4)
        for method in ("gradcam", "hirescam")
    ]
    futures = [model.submit(request, time.monotonic() + 30) for request in requests]
    reference = AutogradExplainer(small_net(), "middle")
    batches = list[int]()
    for request, future in zip(requests, futures, strict=True):
        batches.append(future.result(30).batch_size)
        logits, _, (explanation,) = future.result(30).value
        (target,) = request.targets or (PREDICTED,)
        expected = reference.run(
            tensor_of(request.data, package),
            np.array([target]),
            frozenset({request.method}),
            np.array([request.contrast]),
        )
        assert (
            np.abs(explanation.map - expected.maps[request.method][0]).max()
            <= 1e-4 * expected.maps[request.method].max()
        )
        assert np.allclose(logits, expected.logits[0], atol=1e-4)
        assert explanation.target == (expected.logits[0].argmax() if target == PREDICTED else target)
    assert max(batches) > 1
    with pytest.raises(InvalidImage):
        model.submit(ask(b"no picture"), None).result(30)
    assert model.close(5)
    assert not [thread for thread in threading.enumerate() if "small/explain" in thread.name]
    with pytest.raises(Unavailable):
        model.submit(requests[0], None)


def test_a_graph_that_knows_no_contrast_explains_without_and_refuses_one(package: Path, tmp_path: Path) -> None:
    older = tmp_path / "small"
    shutil.copytree(package, older)
    graph = onnx.load(older / EXPLAIN, load_external_data=False)
    (contrast,) = (given for given in graph.graph.input if given.name == "contrast")
    graph.graph.input.remove(contrast)
    graph.graph.initializer.append(numpy_helper.from_array(np.array([-1]), "contrast"))
    (older / EXPLAIN).write_bytes(graph.SerializeToString())
    data = coloured(3)
    newer, model = explained(stored(package), RunnerOptions()), explained(stored(older), RunnerOptions())
    of_newer, of_older = (each.submit(ask(data), None).result(30).value for each in (newer, model))
    assert np.array_equal(of_newer.explanations[0].map, of_older.explanations[0].map)
    with pytest.raises(NoExplanation, match="Import or add the model again"):
        model.submit(ask(data, targets=(1,), contrast=0), None).result(30)
    assert newer.close(5) and model.close(5)


def test_the_compiled_graph_is_used_and_autograd_where_there_is_none(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    assert isinstance(load_explainer(stored(package), "cpu"), OnnxExplainer)
    without = stored(small_package(tmp_path / "small", explained=False))
    explainer = load_explainer(without, "cpu")
    assert isinstance(explainer, AutogradExplainer)
    share = CoreShare(4)
    lanes = [load_explanation(model, RunnerOptions(), share).plan.lanes for model in (stored(package), without)]
    assert lanes == [4, 1]  # hooks of autograd see whatever passes through their layer
    data = tensor_of(coloured(5), package)
    a, b = (
        chosen.run(data, np.array([1]), frozenset({"gradcam++"}))
        for chosen in (explainer, load_explainer(stored(package), "cpu"))
    )
    assert np.abs(a.maps["gradcam++"] - b.maps["gradcam++"]).max() <= 1e-4 * a.maps["gradcam++"].max()


def test_on_an_accelerator_what_waits_is_explained_together(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.checkpoint.build", lambda card: SmallNet())
    model = explained(stored(package), RunnerOptions(device="torch-cpu"), cores=2)
    assert (model.state, model.detail) == ("ready", "")
    futures = [model.submit(ask(coloured(seed)), None) for seed in range(12)]
    answers = [future.result(30) for future in futures]
    assert max(answer.batch_size for answer in answers) > 1
    reference = AutogradExplainer(small_net(), "middle")
    for seed, answer in enumerate(answers):
        expected = reference.run(tensor_of(coloured(seed), package), np.array([-1]), frozenset({"layercam"}))
        (explanation,) = answer.value.explanations
        assert np.abs(explanation.map - expected.maps["layercam"][0]).max() <= 1e-4 * expected.maps["layercam"].max()
    assert model.close(5)


def test_where_a_threshold_decides_the_class_it_calls_is_explained(package: Path) -> None:
    plain = stored(package)
    green = plain.card.model_copy(update={"positive_label": "green", "threshold": 0.5})
    model = explained(replace(plain, card=green), RunnerOptions(max_batch=8), cores=1)
    reference, data = AutogradExplainer(small_net(), "middle"), coloured(3)
    for threshold in (1e-9, 1.0, 0.5):
        logits, _, (explanation,) = model.submit(ask(data, threshold=threshold), None).result(30).value
        class_id = classify(logits, model.card, threshold=threshold).class_id
        assert explanation.target == class_id
        expected = reference.run(tensor_of(data, package), np.array([class_id]), frozenset({"layercam"})).maps[
            "layercam"
        ][0]
        assert np.abs(explanation.map - expected).max() <= 1e-4 * expected.max()
    assert model.close(5)


class CountedExplainer:
    """An explainer that notes how many tensors each of its runs gets."""

    def __init__(self, explainer: Explainer) -> None:
        self._explainer, self.sizes = explainer, list[int]()
        self.runtime, self.device, self.takes_contrasts = explainer.runtime, explainer.device, True
        self.runs_in_parallel, self.close = explainer.runs_in_parallel, explainer.close

    def run(
        self, batch: Float32Array, targets: Int64Array, methods: frozenset[str], contrasts: Int64Array | None = None
    ) -> ExplainerOutputs:
        """Explain one batch."""
        self.sizes.append(len(batch))
        return self._explainer.run(batch, targets, methods, contrasts)


@pytest.mark.parametrize("kind", ["compiled", "autograd"])
@pytest.mark.parametrize(
    ("options", "sizes"),
    [({"targets": (2, 0)}, [2]), ({"top": 1}, [1]), ({"top": 3}, [1, 2]), ({"top": 2, "contrast": 0}, None)],
)
def test_all_classes_of_a_picture_are_explained_in_one_run_or_one_more(
    package: Path, monkeypatch: pytest.MonkeyPatch, kind: str, options: dict[str, Any], sizes: list[int] | None
) -> None:
    """The picture is decoded once, whatever is explained of it, and each map is what it is by itself."""
    compiled, autograd = OnnxExplainer(package / EXPLAIN), AutogradExplainer(small_net(), "middle")
    explainer = CountedExplainer(compiled if kind == "compiled" else autograd)
    decoded = list[bytes]()

    def counted_prepare(data: bytes, *how: Any) -> Any:
        decoded.append(data)
        return prepare(data, *how)

    monkeypatch.setattr(worker, "prepare", counted_prepare)
    card = stored(package).card
    assert isinstance(card, ImageCard)
    pipeline = worker.ExplanationPipeline(card, explainer)
    request = ask(coloured(3), **options)
    prepared = pipeline.preprocess(request)
    ((logits, _, explanations),) = pipeline.infer([prepared])
    ranked = [class_id for class_id in np.argsort(-logits).tolist() if class_id != request.contrast]
    classes = [explanation.target for explanation in explanations]
    assert classes == list(request.targets or ranked[: request.top])
    assert sizes is None or explainer.sizes == sizes
    assert len(explainer.sizes) <= 2 and len(decoded) == 1
    for explanation in explanations:
        contrast = np.array([request.contrast])
        alone = autograd.run(prepared.tensor[None], np.array([explanation.target]), frozenset({"layercam"}), contrast)
        expected = alone.maps["layercam"][0]
        assert np.abs(explanation.map - expected).max() <= 1e-4 * expected.max()


def test_a_batch_of_many_classes_is_run_a_bounded_part_at_a_time(package: Path) -> None:
    explainer, card = CountedExplainer(OnnxExplainer(package / EXPLAIN)), stored(package).card
    assert isinstance(card, ImageCard)
    pipeline = worker.ExplanationPipeline(card, explainer)
    requests = [ask(coloured(seed), targets=(seed % 3, (seed + 1) % 3)) for seed in range(3)]
    together = pipeline.infer([pipeline.preprocess(request) for request in requests])
    assert explainer.sizes == [4, 2]
    for request, explained_picture in zip(requests, together, strict=True):
        (alone,) = pipeline.infer([pipeline.preprocess(request)])
        for explanation, expected in zip(explained_picture.explanations, alone.explanations, strict=True):
            assert explanation.target == expected.target and np.allclose(explanation.map, expected.map, atol=1e-5)


@pytest.mark.parametrize("size", [(70_000, 8), (4100, 4100)])
def test_a_picture_too_large_to_draw_on_is_told_so_and_its_map_is_still_to_be_had(
    package: Path, size: tuple[int, int]
) -> None:
    model = explained(stored(package), RunnerOptions(), cores=1)
    data = encode(Image.new("RGB", size, (9, 99, 199)))
    with pytest.raises(NoExplanation, match="size=input"):
        model.submit(ask(data, output="overlay"), None).result(30)
    assert model.submit(ask(data, output="overlay", at_input_size=True), None).result(30).value.explanations[0].picture
    assert model.submit(ask(data), None).result(30).value.explanations[0].size == size
    assert model.close(5)


def test_a_damaged_explain_graph_fails_alone_and_says_so(package: Path, tmp_path: Path) -> None:
    broken = stored(small_package(tmp_path / "small"))
    graph = broken.path / "explain.onnx"
    data = bytearray(graph.read_bytes())
    data[len(data) // 2] ^= 1
    graph.write_bytes(data)
    model = explained(broken, RunnerOptions(), cores=1)
    assert model.state == "failed"
    assert "explain.onnx is damaged" in model.detail
    with pytest.raises(Unavailable, match="damaged"):
        model.submit(ask(coloured(1)), None)


def test_a_graph_of_other_weights_is_found_by_the_goldens(tmp_path: Path) -> None:
    package = small_package(tmp_path / "small")
    weights = bytearray((package / "weights.safetensors").read_bytes())
    weights[-200:] = bytes(200)
    (package / "weights.safetensors").write_bytes(weights)
    model = explained(stored(package), RunnerOptions(), cores=1)
    assert model.state == "failed"
    assert "golden" in model.detail


def test_the_process_answers_calls_and_tells_state_and_counts(package: Path) -> None:
    async def scene() -> None:
        process = ExplanationProcess([stored(package)], RunnerOptions())
        process.start()
        while not process.settled():
            await asyncio.sleep(0.01)
        assert process.status()[TAG]["state"] == "ready"
        request = ask(coloured(1))
        (answer,) = answers_from_fields(await process.explain(TAG, [asdict(request)], 30.0, "first"))
        assert isinstance(answer, Answer) and answer.value.explanations[0].map.max() > 0
        with pytest.raises(NotFound, match="other:1 has no explanations"):
            answers_from_fields(await process.explain("other:1", [asdict(request)], 30.0, "second"))
        assert process.status()[TAG]["stats"]["succeeded"] == 1
        await process.stop(5)

    asyncio.run(asyncio.wait_for(scene(), 60))
