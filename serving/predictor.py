"""The core's entry: a model, payloads, parameters and a deadline go in; predictions with their warnings come out.

It knows no transport. HTTP, and the Open Inference Protocol over HTTP and gRPC, translate to it and from it.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import Future
from typing import Any

from errors import InvalidInput, NoExplanation, Unavailable, VitrineError
from models.card import as_image_card, as_row_card
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.attributions import RowExplanationRequest, explain_rows
from serving.gradcam.client import ExplainerClient
from serving.gradcam.requests import default_request
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import ImagePayload, RowOutputs, RowPayload
from serving.predictions import (
    ImagePrediction,
    PredictionParameters,
    RowPredictions,
    explained_targets,
    image_prediction,
    row_predictions,
)
from serving.waiting import Caller, wait_for

EXPLANATIONS_AT_ONCE = 8
"""The explanations of one request that are under way together; more would run out of time waiting for each other."""
EXPLAINED_SHARE = 0.9
"""The share of the time left after predicting rows that their explanations may take."""


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

            return await _settle_few_at_once(predict, payloads, deadline, caller)
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
    ) -> ImagePrediction:
        """Predict and explain one picture in one pass of the Grad-CAM process.

        Raises:
            NoExplanation: the model has no explanations; the message says why.
            Unavailable: the model or the Grad-CAM process is not ready.
            VitrineError: as `predict_image`.
        """
        return await wait_for(self._explain(model, request, parameters, deadline), deadline, caller)

    async def explain_images(
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

        return await _settle_few_at_once(explain, payloads, deadline, caller)

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
            return await wait_for(_predict_rows_with_reasons(model, rows, parameters, deadline), deadline, caller)
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

        async def explain() -> RowPredictions:
            answer: Answer[RowOutputs] = await awaitable(model.submit(rows, deadline))
            return await _with_reasons(model, row_predictions(model, answer, parameters), request, deadline)

        return await wait_for(explain(), deadline, caller)

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

    async def _explain(
        self, model: LoadedModel, request: ExplanationRequest, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        model.check_ready()
        model.check_explainable()
        if self.explainer is None:
            raise Unavailable("Explanations are switched off on this server (VITRINE_EXPLAIN=false).", 60)
        answer = await self.explainer.explain(model.tag, request, deadline)
        return image_prediction(model, answer, parameters, explanation=answer.value)


async def _predict_rows_with_reasons(
    model: LoadedModel, rows: RowPayload, parameters: PredictionParameters, deadline: float
) -> RowPredictions:
    """Predict rows with explanations; where there are none, predict without them and say why."""
    as_row_card(model.card)
    predictions = row_predictions(model, await awaitable(model.submit(rows, deadline)), parameters)
    now = time.monotonic()
    try:
        model.check_explainable()
        # What was predicted is answered in time, whatever becomes of the explanation.
        explained_by = now + EXPLAINED_SHARE * (deadline - now)
        return await wait_for(_with_reasons(model, predictions, RowExplanationRequest(), explained_by), explained_by)
    except VitrineError as error:
        return predictions._replace(explanation_error=str(error))


async def _with_reasons(
    model: LoadedModel, predictions: RowPredictions, request: RowExplanationRequest, deadline: float
) -> RowPredictions:
    targets = explained_targets(as_row_card(model.card), predictions.results, request.target)
    explanations = await explain_rows(model, predictions.answer.value, targets, request, deadline)
    return predictions._replace(explanations=explanations)


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


async def _settle_few_at_once(
    explain: Callable[[ImagePayload], Awaitable[ImagePrediction]],
    payloads: Sequence[ImagePayload],
    deadline: float,
    caller: Caller | None,
) -> list[ImagePrediction | BaseException]:
    """Explain every payload, `EXPLANATIONS_AT_ONCE` at a time; an error takes the place of its prediction."""
    free = asyncio.Semaphore(EXPLANATIONS_AT_ONCE)

    async def settle(payload: ImagePayload) -> ImagePrediction:
        async with free:
            return await explain(payload)

    waiting = asyncio.gather(*(settle(payload) for payload in payloads), return_exceptions=True)
    return await wait_for(waiting, deadline, caller)
