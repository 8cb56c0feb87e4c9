"""The core's entry: a model, payloads, parameters and a deadline go in; predictions with their warnings come out.

It knows no transport. HTTP, and the Open Inference Protocol over HTTP and gRPC, translate to it and from it.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import TypeVar

from models.card import as_image_card, as_row_card
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.answer_fields import note_answer
from serving.attributions import RowExplanationRequest
from serving.explained_images import ImageExplainer
from serving.explained_rows import explain_with_reasons, predict_with_reasons
from serving.gradcam.client import ExplainerClient
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import ImagePayload
from serving.predictions import (
    ImagePrediction,
    PredictionParameters,
    RowPredictions,
    image_prediction,
    row_predictions,
)
from serving.rise import Progress
from serving.row_pipeline import RowOutputs, RowPayload
from serving.waiting import Caller, wait_for

Noted = TypeVar("Noted", list[ImagePrediction | BaseException], RowPredictions)


class Predictor:
    """Predicts and explains with the models of one process.

    Args:
        timeout_ms: the longest time that a request may take.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
        top_k: how many labels are listed where a request does not say; None leaves it to the number of labels.
    """

    def __init__(self, timeout_ms: float, explainer: ExplainerClient | None = None, top_k: int | None = None) -> None:
        self._timeout_ms, self.explainer, self.top_k = timeout_ms, explainer, top_k
        self._images = ImageExplainer(explainer)

    def deadline(self, timeout_ms: float | None = None, since: float | None = None) -> float:
        """Return when a request has to be answered, as a value of `time.monotonic()`.

        Args:
            timeout_ms: what the caller allows; never more than this predictor does.
            since: when the request began; now by default.
        """
        allowed_ms = min(timeout_ms or self._timeout_ms, self._timeout_ms)
        return (time.monotonic() if since is None else since) + allowed_ms / 1000

    async def predict_image(
        self,
        model: LoadedModel,
        payload: ImagePayload,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> ImagePrediction:
        """Predict one picture; with a heatmap where that was asked for and can be had in time.

        Raises:
            CallerGone: nobody waits for the answer any more.
            DeadlineExceeded: the deadline passed.
            InvalidInput: the picture cannot be used.
            QueueFull: the picture would wait too long, or be late.
            Unavailable: the model is not ready.
        """
        if parameters.with_heatmap:
            work = self._images.predict(model, payload, parameters, deadline)
            prediction = await wait_for(work, deadline, caller)
        else:
            prediction = image_prediction(model, await model.answer(payload, deadline, caller), parameters)
        note_answer(model, [prediction])
        return prediction

    async def predict_images(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict several pictures; one that is wrong costs the others nothing.

        Returns:
            For each picture its prediction, or the error that is its answer.

        Raises:
            CallerGone: nobody waits for the answers any more.
            DeadlineExceeded: the deadline passed.
            QueueFull: the queue does not take all pictures; it takes all or none.
            Unavailable: the model is not ready.
        """
        if parameters.with_heatmap:
            work = self._images.predict_all(model, payloads, parameters, deadline)
            return _noted(model, await wait_for(work, deadline, caller))
        await model.fetch(payloads)
        submitted = model.submit_all(payloads, deadline)
        waiting = asyncio.gather(*map(awaitable, submitted), return_exceptions=True)
        predictions = [
            item if isinstance(item, BaseException) else image_prediction(model, item, parameters)
            for item in await wait_for(waiting, deadline, caller)
        ]
        return _noted(model, predictions)

    async def explain_image(
        self,
        model: LoadedModel,
        request: ExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
        *,
        progress: Progress | None = None,
    ) -> ImagePrediction:
        """Predict and explain one picture, for one class or for several at once.

        RISE predicts it many times in this process, every other method takes a gradient in the Grad-CAM process.

        Args:
            model: the model.
            request: what to explain, and how.
            parameters: what is asked of the prediction.
            deadline: a value of `time.monotonic()`.
            caller: who waits.
            progress: is told how far RISE is.

        Raises:
            InvalidInput: a class that is explained is the contrast itself.
            NoExplanation: the method takes a gradient, and the model has none; the message says why.
            Unavailable: the model or the Grad-CAM process is not ready.
            VitrineError: as `predict_image`.
        """
        work = self._images.explain(model, request, parameters, deadline, progress)
        prediction = await wait_for(work, deadline, caller)
        note_answer(model, [prediction])
        return prediction

    async def explain_images(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict and explain several pictures, each as `explain_image`; one that is wrong costs the others nothing.

        Returns:
            For each picture its prediction, or the error that is its answer.

        Raises:
            QueueFull: the queue does not take all pictures; it takes all or none.
            VitrineError: as `explain_image`, but for what is wrong with single pictures.
        """
        return _noted(model, await self._images.explain_all(model, requests, parameters, deadline, caller))

    async def map_images(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict several pictures and give the map of each; one that is wrong costs the others nothing."""
        as_image_card(model.card)
        return _noted(model, await self._images.map_all(model, payloads, parameters, deadline, caller))

    async def predict_rows(
        self,
        model: LoadedModel,
        rows: RowPayload,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> RowPredictions:
        """Predict the rows of one request; a wrong row costs the others nothing.

        Raises:
            VitrineError: as `predict_image`, but for what is wrong with single rows.
        """
        if parameters.with_heatmap:
            work = predict_with_reasons(model, rows, parameters, deadline)
            return _noted(model, await wait_for(work, deadline, caller))
        as_row_card(model.card)
        answer: Answer[RowOutputs] = await model.answer(rows, deadline, caller)
        return _noted(model, row_predictions(model, answer, parameters))

    async def explain_rows(
        self,
        model: LoadedModel,
        rows: RowPayload,
        request: RowExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
        *,
        all_or_none: bool = False,
    ) -> RowPredictions:
        """Predict the rows of one request and say of each that is right why it was answered so.

        With `all_or_none` nothing is explained if a row is wrong.

        Raises:
            NoExplanation: the model has no background to compare a row with.
            InvalidInput: there are too many rows, or the method does not go with the model.
            VitrineError: as `predict_rows`.
        """
        as_row_card(model.card)
        model.check_explainable()
        work = explain_with_reasons(model, rows, request, parameters, deadline, all_or_none=all_or_none)
        return _noted(model, await wait_for(work, deadline, caller))


def _noted(model: LoadedModel, predictions: Noted) -> Noted:
    """Note for the log what a model has answered, and return it."""
    note_answer(model, predictions)
    return predictions
