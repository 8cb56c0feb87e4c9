"""RISE through a model's own Runner, against what follows for a linear model, and how it ends before it is done."""

import asyncio
import time
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import serving.rise
import serving.waiting
from errors import CallerGone, DeadlineExceeded, InvalidInput, NoExplanation, QueueFull
from explain.base import NO_CONTRAST
from explain.overlay import Output
from explain.rise import CELLS, DEFAULT_SAMPLES, RISE, draw_masks
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.masked import MaskedImage, masked_tensors
from serving.pipeline import ImagePayload, TransformedImage
from serving.predictions import ImagePrediction
from serving.predictor import Predictor
from tests.conftest import encode
from tests.explain.test_rise import spline
from tests.serving.predicting import PLAIN, WITH_HEATMAP, loaded, run, soon
from tests.tiny import WEIGHT, bright_square, logits_of_plain, plain, seal, tiny_package

PREDICTOR = Predictor(30_000)
PNG = encode(bright_square())


def asked(
    samples: int = DEFAULT_SAMPLES, *targets: int, contrast: int = NO_CONTRAST, output: Output = "map", top: int = 0
) -> ExplanationRequest:
    return ExplanationRequest(
        PNG, targets, RISE, output, 0.5, at_input_size=False, contrast=contrast, samples=samples, top=top
    )


def explain(model: LoadedModel, request: ExplanationRequest, **how: Any) -> ImagePrediction:
    return run(PREDICTOR.explain_image(model, request, PLAIN, soon(), **how))


def computed(model: LoadedModel) -> int:
    """How many pictures were computed, for clients and for explanations."""
    stats = model.own_stats()
    assert stats is not None
    return stats.inferences + stats.evaluations


def test_a_linear_model_is_explained_by_its_weights(model: LoadedModel) -> None:
    """The logits are linear in the input, so the logarithm of the ratio of two probabilities is, too."""
    prediction = explain(model, asked(8000, 1, contrast=0))
    scaled = (bright_square() / 255 - 0.5) / 0.5
    weights = scaled @ (WEIGHT[:, 1] - WEIGHT[:, 0]) / 256
    places = (np.arange(16) + 0.5) * CELLS / 16
    alike = spline(np.abs(places[:, None] - places))
    expected = np.maximum(alike @ weights @ alike / 2, 0)
    explanation = prediction.explanation
    assert explanation is not None and explanation.sampling is not None
    error = explanation.sampling.standard_error
    assert np.abs(explanation.map - expected).max() < 5 * error < 0.25 * expected.max()
    assert max(np.unravel_index(explanation.map.argmax(), (16, 16))) < 4  # in the red square, which decides


def test_every_target_shares_the_same_predictions(model: LoadedModel) -> None:
    before = computed(model)
    both = explain(model, asked(50, 1, 0))
    assert computed(model) - before == 1 + 50
    assert [explanation.target for explanation in both.explanations] == [1, 0]
    for shared in both.explanations:
        (alone,) = explain(model, asked(50, shared.target)).explanations
        assert np.array_equal(alone.map, shared.map) and alone.sampling == shared.sampling
    first, second = (explanation.target for explanation in explain(model, asked(20, top=2)).explanations)
    assert (first, second) == tuple(np.argsort(-both.logits))


def test_the_same_picture_is_explained_the_same_twice(model: LoadedModel) -> None:
    first, second = (explain(model, asked(40, output="overlay")) for _ in range(2))
    assert first.explanation is not None and second.explanation is not None
    assert np.array_equal(first.explanation.map, second.explanation.map)
    assert first.explanation.picture == second.explanation.picture
    assert first.classification == run(PREDICTOR.predict_image(model, PNG, PLAIN, soon())).classification


def test_the_work_comes_in_chunks_and_says_how_far_it_is(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = explain(model, asked(20))
    shares = list[float]()
    monkeypatch.setattr(serving.rise, "CHUNK_VALUES", 8 * 3 * 16 * 16)  # eight pictures
    parts = explain(model, asked(20), progress=shares.append)
    assert shares == [0.4, 0.8, 1.0]
    assert whole.explanation is not None and parts.explanation is not None
    assert parts.explanation.map == pytest.approx(whole.explanation.map, abs=1e-6)


def test_a_client_that_leaves_ends_the_work(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving.waiting, "UNWATCHED_S", 0.0)  # a fast machine is done by the time it looks
    before = computed(model)

    async def leave_after_a_chunk() -> None:
        left = asyncio.Event()

        class Leaving:
            async def gone(self) -> None:
                await left.wait()

        work = PREDICTOR.explain_image(model, asked(8000), PLAIN, soon(), Leaving(), progress=lambda share: left.set())
        with pytest.raises(CallerGone):
            await work

    run(leave_after_a_chunk())
    explain(model, asked(20))  # what was under way has been finished by now, and its place is free
    assert 16 <= computed(model) - before - 21 < 8000
    assert PREDICTOR._images._rise._under_way == 0
    after = computed(model)
    run(PREDICTOR.predict_image(model, PNG, PLAIN, soon()))
    assert computed(model) - after == 1


def test_predictions_of_others_get_their_turn(model: LoadedModel) -> None:
    async def predict_meanwhile() -> None:
        begun = asyncio.Event()
        work = PREDICTOR.explain_image(model, asked(8000), PLAIN, soon(), progress=lambda share: begun.set())
        explaining = asyncio.create_task(work)
        await begun.wait()
        await PREDICTOR.predict_image(model, PNG, PLAIN, soon())
        assert not explaining.done()
        explaining.cancel()

    run(predict_meanwhile())


def test_of_several_pictures_one_chunk_at_a_time_is_before_the_lanes(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, under_way, most = model.submit, list[Future[Any]](), list[int]()

    def counted(payload: Any, *arguments: Any, **options: Any) -> "Future[Any]":
        future = submit(payload, *arguments, **options)
        if isinstance(payload, MaskedImage):
            under_way.append(future)
            most.append(sum(not begun.done() for begun in under_way))
        return future

    monkeypatch.setattr(model, "submit", counted)

    async def explain_all() -> list[ImagePrediction]:
        return await asyncio.gather(*(PREDICTOR.explain_image(model, asked(64), PLAIN, soon()) for _ in range(3)))

    assert len(run(explain_all())) == 3
    assert len(most) >= 9 and max(most) <= 1


def test_what_was_begun_is_not_refused_when_the_queue_fills_up(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected, submit, chunks = explain(model, asked(50)), model.submit, list[MaskedImage]()

    def full(payload: Any, deadline: float, *, is_admitted: bool = False) -> Any:
        chunks.extend([payload] if isinstance(payload, MaskedImage) else [])
        if chunks and not is_admitted:
            raise QueueFull("full")
        return submit(payload, deadline, is_admitted=is_admitted)

    monkeypatch.setattr(model, "submit", full)
    explained = explain(model, asked(50))
    assert len(chunks) == 4 and explained.explanation is not None and expected.explanation is not None
    assert np.array_equal(explained.explanation.map, expected.explanation.map)


def test_a_deadline_ends_the_work(model: LoadedModel) -> None:
    with pytest.raises(DeadlineExceeded):
        run(PREDICTOR.explain_image(model, asked(8000), PLAIN, time.monotonic() + 0.02))


def test_more_pictures_at_once_than_there_are_places_are_refused(
    model: LoadedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serving.rise, "MOST_UNDER_WAY", 0)
    with pytest.raises(QueueFull, match="Retry later"):
        explain(model, asked())
    prediction = run(PREDICTOR.predict_image(model, plain(200), WITH_HEATMAP, soon()))
    assert "Retry later" in (prediction.explanation_error or "")
    assert prediction.logits == pytest.approx(logits_of_plain(200), abs=1e-5)
    with pytest.raises(QueueFull, match="Retry later"):
        run(PREDICTOR.explain_images(model, [asked(), asked()], PLAIN, soon()))
    for result in run(PREDICTOR.predict_images(model, [plain(200), PNG], WITH_HEATMAP, soon())):
        assert isinstance(result, ImagePrediction) and "Retry later" in (result.explanation_error or "")
    monkeypatch.setattr(serving.rise, "MOST_UNDER_WAY", 1)  # a request takes one place, whatever it brings
    for result in run(PREDICTOR.explain_images(model, [asked(), asked()], PLAIN, soon())):
        assert isinstance(result, ImagePrediction) and result.explanation is not None


def test_a_prediction_comes_with_its_map_if_there_is_time(model: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    (result,) = run(PREDICTOR.predict_images(model, [PNG], WITH_HEATMAP, soon()))
    assert isinstance(result, ImagePrediction) and result.explanation is not None and result.explanation.picture
    assert result.explanation_error is None
    monkeypatch.setattr(serving.rise, "EXPLAINED_SHARE", 0.0)
    prediction = run(PREDICTOR.predict_image(model, PNG, WITH_HEATMAP, soon()))
    assert prediction.explanation is None and "Ask /explain" in (prediction.explanation_error or "")
    assert prediction.logits == pytest.approx(result.logits)


def test_pictures_are_mapped_one_after_the_other_and_a_wrong_one_fails_alone(model: LoadedModel) -> None:
    payloads: list[ImagePayload] = [PNG, b"no picture", TransformedImage(np.zeros((3, 16, 16), np.float32)), plain(200)]
    first, wrong, tensor, last = run(PREDICTOR.map_images(model, payloads, PLAIN, soon()))
    assert isinstance(wrong, InvalidInput) and isinstance(tensor, InvalidInput)
    for result in (first, last):
        assert isinstance(result, ImagePrediction) and result.explanation is not None
        assert result.explanation.map.shape == (16, 16) and result.explanation.picture is None


def test_what_cannot_be_explained_is_refused(model: LoadedModel) -> None:
    with pytest.raises(InvalidInput, match="the label that is explained"):
        explain(model, asked(contrast=int(explain(model, asked(20)).classification.class_id)))
    gradient = ExplanationRequest(PNG, (), "gradcam", "map", 0.5, at_input_size=False)
    with pytest.raises(NoExplanation, match=r"'gradcam' takes a gradient.*names no layer.*method=rise"):
        explain(model, gradient)


def test_a_graph_that_takes_one_picture_at_a_time_is_explained_alike(model: LoadedModel, tmp_path: Path) -> None:
    expected = explain(model, asked(30))
    with loaded(seal(tiny_package(tmp_path / "tiny", batch=1))) as single:
        found = explain(single, asked(30))
    assert found.explanation is not None and expected.explanation is not None
    assert found.explanation.map == pytest.approx(expected.explanation.map, abs=1e-6)


def test_an_early_exit_answers_as_it_does_without_an_explanation(tmp_path: Path) -> None:
    with loaded(seal(tiny_package(tmp_path / "tiny", batch=1, exits=True))) as exiting:
        explained = explain(exiting, asked(30))
        predicted = run(PREDICTOR.predict_image(exiting, PNG, PLAIN, soon()))
    assert explained.answered_by == predicted.answered_by is not None
    assert explained.warnings == predicted.warnings and np.array_equal(explained.logits, predicted.logits)


def test_masks_lie_on_the_height_and_the_width_whatever_the_layout() -> None:
    tensor, masks = np.random.default_rng(2).normal(size=(3, 8, 12)).astype(np.float32), draw_masks(5)
    channels_first = masked_tensors(MaskedImage(tensor, masks), "nchw").tensors
    channels_last = masked_tensors(MaskedImage(tensor.transpose(1, 2, 0), masks), "nhwc").tensors
    assert channels_first.shape == (5, 3, 8, 12)
    assert np.array_equal(channels_first, channels_last.transpose(0, 3, 1, 2))
    shown = channels_first / tensor
    assert shown.min() >= -1e-6 and shown.max() <= 1 + 1e-6
