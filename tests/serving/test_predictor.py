"""The core without any transport: models, payloads, parameters and a deadline in, predictions out."""

import asyncio
import math
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from errors import (
    CallerGone,
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    QueueFull,
    Unavailable,
)
from models.card import as_row_card
from postprocessing.anomaly import Anomalies
from postprocessing.classification import Classifications
from preprocessing.rows import CheckedRows
from preprocessing.transform import Transformed
from runners.admission import ServiceTime
from runners.gathered import Gathered
from serving.cache import ResponseCache
from serving.gradcam.client import ExplainerClient
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.loading import PREDICTION
from serving.options import RunnerOptions
from serving.pipeline import DecodedImage, ImageOutputs, ImagePipeline, TransformedImage
from serving.predictions import ImagePrediction, PredictionParameters
from serving.predictor import Predictor
from serving.row_pipeline import FEW_ROWS, RowOutputs, RowPipeline, RowValues
from tests.api.conftest import bundled
from tests.serving.predicting import PLAIN, WITH_HEATMAP, loaded, run, soon
from tests.tiny import logits_of_plain, plain, seal, tiny_package


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Hold every inference of pictures back, in a lane, until the event is set, which the end of the test does."""
    released, infer = threading.Event(), ImagePipeline.infer

    def held_infer(pipeline: ImagePipeline, batch: Sequence[Transformed]) -> list[ImageOutputs]:
        assert released.wait(60)
        return infer(pipeline, batch)

    monkeypatch.setattr(ImagePipeline, "infer", held_infer)
    monkeypatch.setattr(Gathered, "takes", lambda *_: False)
    yield released
    released.set()


def test_a_picture_is_predicted_as_numpy_works_it_out(model: LoadedModel) -> None:
    prediction = run(Predictor(10_000).predict_image(model, plain(200), PredictionParameters(0.9, 2), soon()))
    assert np.allclose(prediction.logits, logits_of_plain(200), atol=1e-5)
    assert (prediction.classification.threshold, len(prediction.classification.top)) == (0.9, 2)
    assert prediction.warnings[0] == "Only for tests." and "blurry" in prediction.warnings[1]
    assert (prediction.answered_by, prediction.explanation, prediction.explanation_error) == (None, None, None)
    assert prediction.answer.batch_size == 1 and prediction.answer.infer_ms > 0


def test_a_full_queue_refuses_only_what_is_for_the_lanes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("serving.loading.CHEAP_RUN_S", math.inf)
    monkeypatch.setattr(ServiceTime, "add", lambda service, work, seconds: setattr(service, "item_s", 1000.0))
    released, infer = threading.Event(), RowPipeline.infer

    def held_infer(pipeline: RowPipeline, batch: Sequence[CheckedRows]) -> list[RowOutputs]:
        assert len(batch[0].tensor) <= FEW_ROWS or released.wait(60)
        return infer(pipeline, batch)

    monkeypatch.setattr(RowPipeline, "infer", held_infer)
    stored = bundled(tmp_path, "churn")
    row = {feature.name: feature.low for feature in as_row_card(stored.card).input.features}
    with loaded(stored) as model:
        assert model.lanes is not None and model.lanes.gathered is not None
        many = [model.submit([row] * 100, is_admitted=True) for _ in range(8)]
        with pytest.raises(QueueFull):
            model.check_room()
        model.check_room(for_lanes=False)
        assert len(run(model.answer([row], soon())).value.outputs) == 1
        released.set()
        assert all(len(future.result(60).value.outputs) == 100 for future in many)


def test_a_picture_may_come_encoded_decoded_or_transformed(model: LoadedModel) -> None:
    level = np.full((16, 16, 3), 200, np.uint8)
    tensor = np.full((3, 16, 16), (200 / 255 - 0.5) / 0.5, np.float32)
    for payload in (plain(200), DecodedImage(level), TransformedImage(tensor)):
        prediction = run(Predictor(10_000).predict_image(model, payload, PLAIN, soon()))
        assert np.allclose(prediction.logits, logits_of_plain(200), atol=1e-5)


def test_a_wrong_picture_is_an_error_alone_and_takes_its_place_among_several(model: LoadedModel) -> None:
    predictor = Predictor(10_000)
    with pytest.raises(InvalidImage):
        run(predictor.predict_image(model, b"no picture", PLAIN, soon()))
    levels = (10, None, 240)
    payloads = [b"no picture" if level is None else plain(level) for level in levels]
    results = run(predictor.predict_images(model, payloads, PLAIN, soon()))
    for level, result in zip(levels, results, strict=True):
        if level is None:
            assert isinstance(result, InvalidImage)
        else:
            assert isinstance(result, ImagePrediction)
            assert np.allclose(result.logits, logits_of_plain(level), atol=1e-5)


def test_a_deadline_is_the_callers_but_never_later_than_the_servers() -> None:
    predictor = Predictor(timeout_ms=2000)
    assert predictor.deadline(since=100.0) == 102.0
    assert predictor.deadline(500, since=100.0) == 100.5
    assert predictor.deadline(60_000, since=100.0) == 102.0
    before = time.monotonic()
    assert before + 2 <= predictor.deadline() <= time.monotonic() + 2


@pytest.mark.usefixtures("held")
def test_a_deadline_that_passes_is_an_error_for_one_picture_and_for_several(model: LoadedModel) -> None:
    predictor = Predictor(10_000)
    with pytest.raises(DeadlineExceeded):
        run(predictor.predict_image(model, plain(1), PLAIN, soon(0.05)))
    with pytest.raises(DeadlineExceeded):
        run(predictor.predict_images(model, [plain(1), plain(2)], PLAIN, soon(0.05)))


@pytest.mark.usefixtures("held")
def test_a_caller_that_leaves_is_not_waited_for(model: LoadedModel) -> None:
    class Leaving:
        async def gone(self) -> None:
            return

    with pytest.raises(CallerGone):
        run(Predictor(10_000).predict_image(model, plain(1), PLAIN, soon(), Leaving()))


def test_a_queue_that_does_not_take_all_pictures_of_a_request_takes_none(tmp_path: Path, held: threading.Event) -> None:
    held.set()  # for the self-check
    with loaded(seal(tiny_package(tmp_path / "tiny")), RunnerOptions(queue_size=3)) as model:
        held.clear()
        others = [model.submit(plain(0))]
        while (stats := model.stats()) is None or stats.running == 0:
            time.sleep(0.001)
        others.append(model.submit(plain(1)))
        predictor = Predictor(10_000)
        with pytest.raises(QueueFull, match="1 items waiting, and takes 3"):
            run(predictor.predict_images(model, [plain(level) for level in (10, 20, 200)], PLAIN, soon()))
        stats = model.stats()
        assert stats is not None and stats.waiting == 1

        async def predict() -> list[ImagePrediction | BaseException]:
            task = asyncio.ensure_future(predictor.predict_images(model, [plain(10), plain(20)], PLAIN, soon()))
            await asyncio.sleep(0)
            held.set()
            return await task

        assert all(isinstance(result, ImagePrediction) for result in run(predict()))
        assert all(other.result(20) for other in others)


def test_the_self_check_tells_how_long_the_first_clients_would_wait(tmp_path: Path, held: threading.Event) -> None:
    held.set()
    with loaded(seal(tiny_package(tmp_path / "tiny"))) as model:
        held.clear()
        futures = [model.submit(plain(level)) for level in range(200)]  # more than one batch
        stats = model.stats()
        assert stats is not None and stats.succeeded == 0 and stats.expected_seconds > 0
        held.set()
        assert all(future.result(20) for future in futures)


def test_what_the_cache_has_of_a_request_takes_no_place(tmp_path: Path) -> None:
    with loaded(seal(tiny_package(tmp_path / "tiny")), cache=ResponseCache(2**20)) as model:
        predictor, pictures = Predictor(10_000), [plain(level) for level in (77, 10, 240)]
        run(predictor.predict_image(model, pictures[1], PLAIN, soon()))
        results = run(predictor.predict_images(model, pictures, PLAIN, soon()))
        cached = [isinstance(result, ImagePrediction) and result.answer.cached for result in results]
        assert cached == [False, True, False]
        alone = [run(predictor.predict_image(model, picture, PLAIN, soon())) for picture in pictures]
        assert all(prediction.answer.cached for prediction in alone)
        for prediction, result in zip(alone, results, strict=True):
            assert isinstance(result, ImagePrediction) and np.array_equal(prediction.logits, result.logits)


def test_a_model_that_is_not_ready_says_what_it_does(tmp_path: Path) -> None:
    stored = seal(tiny_package(tmp_path / "tiny", explained=True))
    model, predictor = LoadedModel(stored.card, stored, PREDICTION), Predictor(10_000, ExplainerClient(1000))
    request = ExplanationRequest(plain(1), (), "gradcam", "map", 0.5, at_input_size=True)
    for work in (
        predictor.predict_image(model, plain(1), PLAIN, soon()),
        predictor.predict_images(model, [plain(1)], PLAIN, soon()),
        predictor.predict_image(model, plain(1), WITH_HEATMAP, soon()),
        predictor.explain_image(model, request, PLAIN, soon()),
    ):
        with pytest.raises(Unavailable, match="waiting to be loaded"):
            run(work)


def test_pictures_and_rows_do_not_mix(model: LoadedModel, tmp_path: Path) -> None:
    predictor = Predictor(10_000)
    with pytest.raises(InvalidInput, match="tiny takes pictures"):
        run(predictor.predict_rows(model, [{}], PLAIN, soon()))
    with loaded(bundled(tmp_path, "churn")) as churn, pytest.raises(InvalidInput, match="churn takes rows"):
        run(predictor.map_images(churn, [plain(1)], PLAIN, soon()))


def test_the_same_picture_is_computed_once_where_there_is_a_cache(tmp_path: Path) -> None:
    with loaded(seal(tiny_package(tmp_path / "tiny")), cache=ResponseCache(2**20)) as model:
        predictor = Predictor(10_000)
        first, second = (run(predictor.predict_image(model, plain(77), PLAIN, soon())) for _ in range(2))
        assert (first.answer.cached, second.answer.cached) == (False, True)
        assert np.array_equal(first.logits, second.logits)
        strict = run(predictor.predict_image(model, plain(240), replace(PLAIN, threshold=0.999), soon()))
        assert strict.classification.threshold == 0.999


def test_rows_are_predicted_and_a_wrong_one_fails_alone(tmp_path: Path) -> None:
    with loaded(bundled(tmp_path, "churn")) as churn:
        row = {entry.name: entry.example for entry in churn.card.input.entries}  # type: ignore[union-attr]
        predictor = Predictor(10_000)
        predictions = run(predictor.predict_rows(churn, [row, {"age": 3}, row], PLAIN, soon()))
        assert set(predictions.problems) == {1} and predictions.outputs.shape == (2, 2)
        assert isinstance(predictions.results, Classifications)
        first, second = predictions.results.probabilities
        assert (first == second).all()
        assert predictions.warnings == churn.card.warnings
        values = RowValues(np.array([list(row.values())], np.float64))
        from_values = run(predictor.predict_rows(churn, values, PLAIN, soon())).results
        assert isinstance(from_values, Classifications) and (from_values.probabilities == [first]).all()


def test_a_detectors_rows_are_judged_by_the_callers_threshold(tmp_path: Path) -> None:
    with loaded(bundled(tmp_path, "machine_anomaly")) as detector:
        row = {entry.name: entry.example for entry in detector.card.input.entries}  # type: ignore[union-attr]
        results = [
            run(Predictor(10_000).predict_rows(detector, [row], PredictionParameters(threshold), soon())).results
            for threshold in (None, 1e-9, 1e9)
        ]
        anomalies = [result for result in results if isinstance(result, Anomalies)]
        assert [result.threshold for result in anomalies] == [0.011, 1e-9, 1e9]
        assert [result.are_anomalies.tolist() for result in anomalies[1:]] == [[True], [False]]
