"""The core's entry: a model, payloads, parameters and a deadline go in; predictions with their warnings come out.

It knows no transport. HTTP, and the Open Inference Protocol over HTTP and gRPC, translate to it and from it.
"""

import asyncio
import time
from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from errors import InvalidInput, NoExplanation, Unavailable, VitrineError
from models.card import as_image_card, as_row_card
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.attributions import RowExplanationRequest, is_own_contrast
from serving.explained_rows import explain_with_reasons, predict_with_reasons
from serving.gradcam.client import ExplainerClient
from serving.gradcam.requests import default_request
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import ImagePayload, RowOutputs, RowPayload
from serving.predictions import (
    ImagePrediction,
    PredictionParameters,
    RowPredictions,
    image_prediction,
    row_predictions,
)
from serving.waiting import Caller, settle_few_at_once, wait_for


class Predictor:
    """Predicts and explains with the models of one process.

    Args:
        timeout_ms: the longest time that a request may take.
        explainer: calls the Grad-CAM process; None where explanations are switched off.
        top_k: how many labels are listed where a request does not say; None leaves it to the number of labels.
    """

    def __init__(self, timeout_ms: float, explainer: ExplainerClient | None = None, top_k: int | None = None) -> None:
        self._timeout_ms, self.explainer, self.top_k = timeout_ms, explainer, top_k

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
        """Predict one picture; with a heatmap where that was asked for and the Grad-CAM process can.

        Raises:
            CallerGone: nobody waits for the answer any more.
            DeadlineExceeded: the deadline passed.
            InvalidInput: the picture cannot be used.
            QueueFull: as many pictures wait as the queue takes.
            Unavailable: the model is not ready.
        """
        if parameters.with_heatmap:
            return await wait_for(self._predict_with_heatmap(model, payload, parameters, deadline), deadline, caller)
        answer = await wait_for(awaitable(model.submit(payload, deadline)), deadline, caller)
        return image_prediction(model, answer, parameters)

    async def predict_images(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
        *,
        all_or_none: bool = False,
    ) -> list[ImagePrediction | BaseException]:
        """Predict several pictures; one that is wrong costs the others nothing.

        With `all_or_none` a queue that does not take all pictures refuses the whole request.

        Returns:
            For each picture its prediction, or the error that is its answer.

        Raises:
            CallerGone: nobody waits for the answers any more.
            DeadlineExceeded: the deadline passed.
            QueueFull: with `all_or_none`, the queue does not take all pictures.
            Unavailable: with `all_or_none`, the model is not ready.
        """
        if parameters.with_heatmap:

            def predict(payload: ImagePayload) -> Awaitable[ImagePrediction]:
                return self._predict_with_heatmap(model, payload, parameters, deadline)

            return await settle_few_at_once(predict, payloads, deadline, caller)
        submitted = _submit_all(model, payloads, deadline, all_or_none=all_or_none)
        waiting = asyncio.gather(
            *(awaitable(future) for future in submitted if isinstance(future, Future)), return_exceptions=True
        )
        answers = iter(await wait_for(waiting, deadline, caller))
        settled = [next(answers) if isinstance(item, Future) else item for item in submitted]
        return [
            item if isinstance(item, BaseException) else image_prediction(model, item, parameters) for item in settled
        ]

    async def explain_image(
        self,
        model: LoadedModel,
        request: ExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
        *,
        targets: Sequence[int] = (),
        top: int = 0,
    ) -> list[ImagePrediction]:
        """Predict and explain one picture in the Grad-CAM process, for one class or for several at once.

        Args:
            model: the model.
            request: what to explain, and how.
            parameters: what is asked of the prediction.
            deadline: a value of `time.monotonic()`.
            caller: who waits.
            targets: the indices of the classes to explain in place of the request's target.
            top: how many of the most probable classes to explain instead; 0 for none.

        Returns:
            A prediction for each class, in their order; they differ in nothing but their explanations.

        Raises:
            InvalidInput: a class that is explained is the contrast itself.
            NoExplanation: the model has no explanations; the message says why.
            Unavailable: the model or the Grad-CAM process is not ready.
            VitrineError: as `predict_image`.
        """
        return await wait_for(
            self._explain_classes(model, request, parameters, deadline, targets, top), deadline, caller
        )

    async def explain_images(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
        *,
        targets: Sequence[int] = (),
        top: int = 0,
    ) -> list[list[ImagePrediction] | BaseException]:
        """Predict and explain several pictures, each as `explain_image`; one that is wrong costs the others nothing."""

        def explain(request: ExplanationRequest) -> Awaitable[list[ImagePrediction]]:
            return self._explain_classes(model, request, parameters, deadline, targets, top)

        return await settle_few_at_once(explain, requests, deadline, caller)

    async def map_images(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict several pictures and give the map of each; one that is wrong costs the others nothing."""
        card = as_image_card(model.card)

        async def explain(payload: ImagePayload) -> ImagePrediction:
            request = await default_request(card, payload, parameters.threshold, "map")
            return await self._explain(model, request, parameters, deadline)

        return await settle_few_at_once(explain, payloads, deadline, caller)

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
            return await wait_for(predict_with_reasons(model, rows, parameters, deadline), deadline, caller)
        as_row_card(model.card)
        answer: Answer[RowOutputs] = await wait_for(awaitable(model.submit(rows, deadline)), deadline, caller)
        return row_predictions(model, answer, parameters)

    async def explain_rows(
        self,
        model: LoadedModel,
        rows: RowPayload,
        request: RowExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> RowPredictions:
        """Predict the rows of one request and say of each that is right why it was answered so.

        Raises:
            NoExplanation: the model has no background to compare a row with.
            InvalidInput: there are too many rows, or the method does not go with the model.
            VitrineError: as `predict_rows`.
        """
        as_row_card(model.card)
        model.check_explainable()
        return await wait_for(explain_with_reasons(model, rows, request, parameters, deadline), deadline, caller)

    async def _predict_with_heatmap(
        self, model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        """Predict with an explanation; where there is none, predict without it and say why."""
        card, now = as_image_card(model.card), time.monotonic()
        try:
            request = await default_request(card, payload, parameters.threshold, "overlay")
            # The explanation gets half of the time; the rest is for predicting without it.
            return await self._explain(model, request, parameters, now + (deadline - now) / 2)
        except VitrineError as error:
            if isinstance(error, InvalidInput) and not isinstance(error, NoExplanation):
                raise
            explanation_error = str(error)
        prediction = image_prediction(model, await awaitable(model.submit(payload, deadline)), parameters)
        return prediction._replace(explanation_error=explanation_error)

    async def _explain_classes(
        self,
        model: LoadedModel,
        request: ExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        targets: Sequence[int],
        top: int,
    ) -> list[ImagePrediction]:
        def explain(target: int) -> Awaitable[ImagePrediction]:
            return self._explain(model, replace(request, target=target), parameters, deadline)

        predictions = await asyncio.gather(*map(explain, targets or (request.target,)))
        if top:
            answered = predictions[0]
            most_probable: list[int] = np.argsort(-answered.logits, kind="stable")[:top].tolist()
            others = [class_id for class_id in most_probable if class_id != _explained_class(answered)]
            explained = dict(zip(others, await asyncio.gather(*map(explain, others)), strict=True))
            predictions = [explained.get(class_id, answered) for class_id in most_probable]
        if any(_explained_class(prediction) == request.contrast for prediction in predictions):
            raise is_own_contrast(as_image_card(model.card).labels[request.contrast])
        return predictions

    async def _explain(
        self, model: LoadedModel, request: ExplanationRequest, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        model.check_ready()
        model.check_explainable()
        if self.explainer is None:
            raise Unavailable("Explanations are switched off on this server (VITRINE_EXPLAIN=false).", 60)
        answer = await self.explainer.explain(model.tag, request, deadline)
        return image_prediction(model, answer, parameters, explanation=answer.value)


def _explained_class(prediction: ImagePrediction) -> int | None:
    return None if prediction.explanation is None else prediction.explanation.target


def _submit_all(
    model: LoadedModel, payloads: Sequence[ImagePayload], deadline: float, *, all_or_none: bool
) -> list["Future[Answer[Any]] | VitrineError"]:
    """Queue every payload; the error of one that is refused takes its place, or with `all_or_none` is raised."""
    submitted = list[Future[Answer[Any]] | VitrineError]()
    for payload in payloads:
        try:
            submitted.append(model.submit(payload, deadline))
        except VitrineError as error:
            if all_or_none:
                for item in submitted:
                    if isinstance(item, Future):
                        item.cancel()
                raise
            submitted.append(error)
    return submitted
