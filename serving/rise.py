"""RISE by a model's own Runner: one picture is predicted behind random masks, a bounded chunk of them at a time."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import numpy as np

from errors import DeadlineExceeded, QueueFull, Unavailable, VitrineError
from explain.base import NO_CONTRAST
from explain.rise import Masks, RiseMap, draw_masks, map_size, rise_maps
from models.card import as_image_card
from preprocessing.spec import Float32Tensor
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.attributions import explained_outputs, is_own_contrast
from serving.gradcam.drawing import PreparedPicture, draw
from serving.gradcam.wire import Explanation, ExplanationRequest, Sampling
from serving.loaded_model import LoadedModel
from serving.masked import MaskedImage, MaskedOutputs, ShownOutputs
from serving.predictions import ImagePrediction, PredictionParameters, image_prediction, most_probable
from serving.waiting import wait_for

CHUNK_VALUES, ACCELERATOR_CHUNK_VALUES, MOST_IN_CHUNK = 2**18, 2**22, 16
"""The most values of masked tensors, and the most masks, that a lane is given at once, so that predictions get their
turn: of 224 × 224 pixels a CPU is given one picture, as batches do not help it, and an accelerator 16."""
MOST_UNDER_WAY = 4
"""The pictures that are explained at once; more would only wait for each other, and predictions for all of them."""
EXPLAINED_SHARE = 0.9
"""The share of the time left after predicting a picture that its explanation may take."""

Progress = Callable[[float], None]
"""Is told what share of the work is done, from 0 to 1."""


class RiseExplainer:
    """Explains pictures of any model by RISE; `MOST_UNDER_WAY` of them at a time, of all models."""

    def __init__(self) -> None:
        self._under_way = 0

    async def explain(
        self,
        model: LoadedModel,
        request: ExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        progress: Progress | None = None,
    ) -> ImagePrediction:
        """Predict and explain one picture; all targets share what the network computes.

        One chunk waits in the model's queue at a time, whose lanes predict in between. Cancelling it ends the work
        after the chunk that is being computed.

        Args:
            model: the model.
            request: what to explain, and how.
            parameters: what is asked of the prediction.
            deadline: a value of `time.monotonic()`.
            progress: is told after each chunk how far the work is.

        Raises:
            InvalidInput: a class that is explained is the contrast itself, or the picture cannot be used.
            NoExplanation: the picture is too large to be drawn on.
            QueueFull: `MOST_UNDER_WAY` pictures are being explained, or the model's queue is full; one that fills up
                later is waited for.
            VitrineError: the Runner's own, as of `LoadedModel.submit`.
        """
        with self._place():
            return await _explain(model, request, parameters, deadline, progress)

    async def explain_all(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
    ) -> list[ImagePrediction | BaseException]:
        """Predict and explain the pictures of one request one after the other, which takes one place; all or none.

        Returns:
            For each picture its prediction, or what is wrong with it.
        """

        def explain(request: ExplanationRequest, *, is_admitted: bool) -> Awaitable[ImagePrediction]:
            return _explain(model, request, parameters, deadline, is_admitted=is_admitted)

        with self._place():
            return await _all_or_none(explain, requests)

    async def predict_all(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
    ) -> list[ImagePrediction | BaseException]:
        """Predict the pictures of one request and explain their labels; all or none, as `explain_all`.

        Where the time does not allow an explanation, the prediction says so.

        Returns:
            For each picture its prediction, or what is wrong with it or with drawing on it.
        """

        def predict(request: ExplanationRequest, *, is_admitted: bool) -> Awaitable[ImagePrediction]:
            return _predict(model, request, parameters, deadline, is_admitted=is_admitted)

        with self._place():
            return await _all_or_none(predict, requests)

    @contextmanager
    def _place(self) -> Iterator[None]:
        if self._under_way >= MOST_UNDER_WAY:
            raise QueueFull(
                f"{MOST_UNDER_WAY} pictures are being explained by many predictions, as many as at once. Retry later.",
                5,
            )
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1


def chunk_masks(tensor: Float32Tensor, device: str | None) -> int:
    """Return how many masks a lane of this device is given at once for a picture that is this transformed tensor."""
    values = CHUNK_VALUES if device == "cpu" else ACCELERATOR_CHUNK_VALUES
    return max(1, min(MOST_IN_CHUNK, values // tensor.size))


def chunks(tensor: Float32Tensor, masks: Masks, device: str | None) -> Iterator[MaskedImage]:
    """Yield a picture that is this transformed tensor with all of its masks, as many at a time as a lane is given."""
    size = chunk_masks(tensor, device)
    for start in range(0, len(masks.knots), size):
        yield MaskedImage(tensor, masks.part(start, size))


async def _all_or_none(
    answer: "_AnswerOne", requests: Sequence[ExplanationRequest]
) -> list[ImagePrediction | BaseException]:
    """Return the result of each request, or the error in its place; raise the first one's if that was not admitted."""
    results = list[ImagePrediction | BaseException]()
    for request in requests:
        try:
            results.append(await answer(request, is_admitted=bool(results)))
        except VitrineError as error:
            if not results and isinstance(error, QueueFull | Unavailable):
                raise
            results.append(error)
    return results


async def _explain(
    model: LoadedModel,
    request: ExplanationRequest,
    parameters: PredictionParameters,
    deadline: float,
    progress: Progress | None = None,
    *,
    is_admitted: bool = False,
) -> ImagePrediction:
    answer: Answer[ShownOutputs] = await awaitable(model.submit(request, deadline, is_admitted=is_admitted))
    prediction = _prediction(model, answer, parameters)
    classes = _classes(prediction, request)
    return await _explained(model, answer, prediction, classes, deadline, progress)


async def _predict(
    model: LoadedModel,
    request: ExplanationRequest,
    parameters: PredictionParameters,
    deadline: float,
    *,
    is_admitted: bool = False,
) -> ImagePrediction:
    answer: Answer[ShownOutputs] = await awaitable(model.submit(request, deadline, is_admitted=is_admitted))
    prediction = _prediction(model, answer, parameters)
    now = time.monotonic()
    explained_by = now + EXPLAINED_SHARE * (deadline - now)
    too_late = (
        f"An explanation of {model.name} takes {request.samples:,} predictions, for which too little time was "
        "left. Ask /explain for it, with a longer timeout_ms or fewer samples."
    )
    if now + request.samples * answer.infer_ms / 1e3 > explained_by:
        return prediction._replace(explanation_error=too_late)
    classes = [prediction.classification.class_id]
    try:
        work = _explained(model, answer, prediction, classes, explained_by)
        return await wait_for(work, explained_by)
    except DeadlineExceeded:
        return prediction._replace(explanation_error=too_late)
    except VitrineError as error:
        return prediction._replace(explanation_error=str(error))


class _AnswerOne(Protocol):
    def __call__(self, request: ExplanationRequest, *, is_admitted: bool) -> Awaitable[ImagePrediction]: ...


def _prediction(model: LoadedModel, answer: Answer[ShownOutputs], parameters: PredictionParameters) -> ImagePrediction:
    return image_prediction(model, answer._replace(value=answer.value.outputs), parameters)  # type: ignore[arg-type]


def _classes(prediction: ImagePrediction, request: ExplanationRequest) -> Sequence[int]:
    """Return the indices of the classes to explain; without any, that of the label that is answered."""
    if request.top:
        return most_probable(prediction.logits, request.top, request.contrast)
    return request.targets or (prediction.classification.class_id,)


async def _explained(
    model: LoadedModel,
    answer: Answer[ShownOutputs],
    prediction: ImagePrediction,
    classes: Sequence[int],
    deadline: float,
    progress: Progress | None = None,
) -> ImagePrediction:
    """Return the prediction with the explanation of each class; its times are those of the whole work."""
    card, picture = as_image_card(model.card), answer.value.picture
    request = picture.request
    if request.contrast in classes:
        raise is_own_contrast(card.labels[request.contrast])
    maps, masked_ms = await _maps(model, picture, classes, deadline, progress)
    started = time.monotonic()
    drawn = [await asyncio.to_thread(draw, card, picture, rise_map.values) for rise_map in maps]
    whole_ms = answer.infer_ms + masked_ms + (time.monotonic() - started) * 1e3
    explanations = [
        Explanation(class_id, png, rise_map.values, picture.size, Sampling(request.samples, rise_map.standard_error))
        for class_id, rise_map, png in zip(classes, maps, drawn, strict=True)
    ]
    return prediction._replace(answer=prediction.answer._replace(infer_ms=whole_ms), explanations=explanations)


async def _maps(
    model: LoadedModel,
    picture: PreparedPicture,
    classes: Sequence[int],
    deadline: float,
    progress: Progress | None,
) -> tuple[list[RiseMap], float]:
    """Return the map of each class, and the milliseconds that lanes worked on them."""
    card, request = as_image_card(model.card), picture.request
    contrast = None if request.contrast == NO_CONTRAST else request.contrast
    masks = draw_masks(request.samples)
    scores, worked_ms, done = list[np.ndarray](), 0.0, 0
    for payload in chunks(picture.tensor, masks, model.device):
        async with model.explained_one_by_one:
            answer: Answer[MaskedOutputs] = await awaitable(model.submit(payload, deadline, is_admitted=True))
        scores.append(explained_outputs(answer.value.logits, card, classes, contrast))
        worked_ms += answer.decode_ms + answer.infer_ms
        done += len(scores[-1])
        if progress is not None:
            progress(done / request.samples)
    maps = await asyncio.to_thread(rise_maps, np.concatenate(scores), masks, map_size(card.input.size))
    return maps, worked_ms
