"""Predictions with explanations, through the core and a real Grad-CAM process's inside."""

import gc
import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from errors import (
    DeadlineExceeded,
    InvalidImage,
    InvalidInput,
    NoExplanation,
    QueueFull,
    Unavailable,
    VitrineError,
)
from runners.admission import Work
from runners.queue import Queue
from serving.gradcam.client import AT_ONCE, ExplainerClient
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import DecodedImage, TransformedImage
from serving.predictions import ImagePrediction
from serving.predictor import Predictor
from tests.conftest import encode
from tests.local_gradcam import LocalGradCam, local_gradcam
from tests.serving.predicting import PLAIN, WITH_HEATMAP, loaded, run, soon
from tests.tiny import bright_square, logits_of_plain, map_of, plain, seal, tiny_package


@pytest.fixture(scope="module")
def explained(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[LoadedModel, ExplainerClient, LocalGradCam]]:
    """The tiny model with explanations, and the client and the process that give them."""
    stored = seal(tiny_package(tmp_path_factory.mktemp("explained") / "tiny", explained=True))
    with local_gradcam(stored) as (explainer, process), loaded(stored) as ready:
        yield ready, explainer, process


def test_an_explanation_comes_with_its_prediction(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
) -> None:
    model, explainer, _ = explained
    pixels = bright_square()
    request = ExplanationRequest(encode(pixels), (1,), "hirescam", "map", 0.5, at_input_size=True)
    prediction = run(Predictor(10_000, explainer).explain_image(model, request, PLAIN, soon()))
    assert prediction.explanation is not None and prediction.explanation.target == 1
    assert np.allclose(prediction.explanation.map, map_of(pixels, 1, "hirescam"), rtol=1e-4, atol=1e-5)
    plain_prediction = run(Predictor(10_000).predict_image(model, encode(pixels), PLAIN, soon()))
    assert np.allclose(prediction.logits, plain_prediction.logits, atol=1e-5)
    assert prediction.warnings == plain_prediction.warnings


def test_more_pictures_than_are_explained_at_once_are_all_explained(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
) -> None:
    model, explainer, _ = explained
    payloads = [plain(10 * index) for index in range(2 * AT_ONCE + 1)]
    payloads[3] = b"no picture"
    results = run(Predictor(10_000, explainer).map_images(model, payloads, PLAIN, soon()))
    assert isinstance(results[3], InvalidImage)
    for index, result in enumerate(results):
        if index != 3:
            assert isinstance(result, ImagePrediction) and result.explanation is not None
            assert np.allclose(result.logits, logits_of_plain(10 * index), atol=1e-4)
            assert result.explanation.picture is None and result.explanation.map.shape == (4, 4)


def test_the_pictures_of_one_request_are_explained_all_or_none(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, explainer, process = explained
    check_room = Queue.check_room

    def takes_one(queue: Queue, work: Work, count: int, deadline: float | None, now: float) -> None:
        if count > 1 and queue.name == "tiny/explain":
            raise QueueFull("there is room for one", 7)
        check_room(queue, work, count, deadline, now)

    monkeypatch.setattr(Queue, "check_room", takes_one)
    predictor, payloads = Predictor(10_000, explainer), [plain(10), b"no picture", plain(30)]
    requests = [ExplanationRequest(data, (), "gradcam", "map", 0.5, at_input_size=True) for data in payloads]
    calls, succeeded = process.calls, process.process.status()[model.tag]["stats"]["succeeded"]
    with pytest.raises(QueueFull, match="room for one") as refused:
        run(predictor.explain_images(model, requests, PLAIN, soon()))
    assert refused.value.retry_after_s == 7 and process.calls == calls + 1
    first, wrong, last = run(predictor.predict_images(model, payloads, WITH_HEATMAP, soon()))
    assert isinstance(wrong, InvalidImage)
    for result, level in ((first, 10), (last, 30)):
        assert isinstance(result, ImagePrediction) and result.explanation_error == "there is room for one"
        assert np.allclose(result.logits, logits_of_plain(level), atol=1e-4)
    assert process.process.status()[model.tag]["stats"]["succeeded"] == succeeded
    (alone,) = run(predictor.explain_images(model, requests[:1], PLAIN, soon()))
    assert isinstance(alone, ImagePrediction) and alone.explanation is not None


def test_an_explained_picture_is_answered_although_its_model_has_gone_meanwhile(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, explainer, _ = explained
    explain = explainer.explain

    async def explain_and_go(tag: str, requests: Sequence[ExplanationRequest], deadline: float) -> Any:
        answers = await explain(tag, requests, deadline)
        monkeypatch.setattr(model, "state", "draining")
        return answers

    monkeypatch.setattr(explainer, "explain", explain_and_go)
    prediction = run(Predictor(10_000, explainer).predict_image(model, plain(10), WITH_HEATMAP, soon()))
    assert prediction.explanation is not None and prediction.explanation_error is None
    assert np.allclose(prediction.logits, logits_of_plain(10), atol=1e-4)


def test_a_deadline_that_passes_leaves_no_explanation_behind(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam], caplog: pytest.LogCaptureFixture
) -> None:
    """More explanations than go at once: those that never began must not be left waiting either."""
    model, explainer, process = explained
    calls = process.calls
    payloads = [plain(10)] * (2 * AT_ONCE)
    with pytest.raises(DeadlineExceeded):
        run(Predictor(10_000, explainer).map_images(model, payloads, PLAIN, time.monotonic()))
    gc.collect()  # what nobody took care of is reported when it goes
    assert process.calls - calls <= 1 and not caplog.records


def test_a_heatmap_is_drawn_for_pixels_as_for_a_file_but_not_for_a_tensor(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
) -> None:
    model, explainer, _ = explained
    predictor, pixels = Predictor(10_000, explainer), bright_square()
    from_file, from_pixels = (
        run(predictor.predict_image(model, payload, WITH_HEATMAP, soon())).explanation
        for payload in (encode(pixels), DecodedImage(pixels))
    )
    assert from_file is not None and from_pixels is not None
    assert from_file.picture == from_pixels.picture and from_file.size == (16, 16)
    tensor = TransformedImage(np.zeros((3, 16, 16), np.float32))
    with pytest.raises(InvalidInput, match="no map of a tensor"):
        run(predictor.predict_image(model, tensor, WITH_HEATMAP, soon()))


@pytest.mark.parametrize(
    "failure", [ConnectionResetError(), QueueFull("full"), DeadlineExceeded("late"), NoExplanation("too large")]
)
def test_where_there_is_no_heatmap_the_prediction_says_why(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
    monkeypatch: pytest.MonkeyPatch,
    failure: Exception,
) -> None:
    model, explainer, _ = explained
    if isinstance(failure, VitrineError):

        async def refuse(*_: object) -> None:
            raise failure

        monkeypatch.setattr(explainer, "explain", refuse)
    else:
        explainer = ExplainerClient(1000)  # the process has not told it its state yet
    predictor = Predictor(10_000, explainer)
    prediction = run(predictor.predict_image(model, plain(200), WITH_HEATMAP, soon()))
    assert np.allclose(prediction.logits, logits_of_plain(200), atol=1e-5)
    assert prediction.explanation is None and prediction.explanation_error
    (result,) = run(predictor.predict_images(model, [plain(200)], WITH_HEATMAP, soon()))
    assert isinstance(result, ImagePrediction) and result.explanation_error == prediction.explanation_error


def test_a_wrong_picture_is_as_wrong_with_a_heatmap(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
) -> None:
    model, explainer, _ = explained
    with pytest.raises(InvalidImage):
        run(Predictor(10_000, explainer).predict_image(model, b"no picture", WITH_HEATMAP, soon()))


def test_where_no_gradient_is_taken_the_prediction_says_so(
    explained: tuple[LoadedModel, ExplainerClient, LocalGradCam],
) -> None:
    model, predictor = explained[0], Predictor(10_000, None)
    prediction = run(predictor.predict_image(model, plain(1), WITH_HEATMAP, soon()))
    assert prediction.explanation is None and "VITRINE_EXPLAIN=false" in (prediction.explanation_error or "")
    request = ExplanationRequest(plain(1), (), "gradcam", "map", 0.5, at_input_size=True)
    with pytest.raises(Unavailable, match="VITRINE_EXPLAIN=false"):
        run(predictor.explain_image(model, request, PLAIN, soon()))
