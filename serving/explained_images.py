"""Predictions of pictures together with where the model looked: by a gradient in the Grad-CAM process, or by RISE."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace

from errors import InvalidInput, NoExplanation, Unavailable, VitrineError
from explain.overlay import Output
from explain.rise import RISE
from models.card import as_image_card
from runners.awaiting import awaitable
from serving.attributions import is_own_contrast
from serving.gradcam.client import ExplainerClient
from serving.gradcam.requests import default_request
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.pipeline import ImagePayload
from serving.predictions import ImagePrediction, PredictionParameters, image_prediction
from serving.rise import Progress, RiseExplainer
from serving.waiting import Caller, wait_for


class ImageExplainer:
    """Explains pictures as their requests ask, or as is usual for the model.

    Args:
        client: calls the Grad-CAM process; None where that is switched off.
    """

    def __init__(self, client: ExplainerClient | None) -> None:
        self._client, self._rise = client, RiseExplainer()

    async def explain(
        self,
        model: LoadedModel,
        request: ExplanationRequest,
        parameters: PredictionParameters,
        deadline: float,
        progress: Progress | None = None,
    ) -> ImagePrediction:
        """Predict and explain one picture, as `Predictor.explain_image` describes."""
        model.check_ready()
        started = time.monotonic()
        explained: ImagePrediction | BaseException
        if request.method == RISE:
            explained = await self._rise.explain(model, request, parameters, deadline, progress)
        else:
            (explained,) = await self._by_gradient(model, [request], parameters, deadline)
        _count(model, [request], started, [explained])
        return _result(explained)

    async def explain_all(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict and explain the pictures of one request, as `Predictor.explain_images` describes."""
        model.check_ready()
        started, by_rise = time.monotonic(), any(request.method == RISE for request in requests)
        explain_all = self._rise.explain_all if by_rise else self._by_gradient
        results = await wait_for(explain_all(model, requests, parameters, deadline), deadline, caller)
        _count(model, requests, started, results)
        return results

    async def predict(
        self, model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        """Predict with an explanation; where there is none, predict without it and say why."""
        (predicted,) = await self.predict_all(model, [payload], parameters, deadline)
        return _result(predicted)

    async def predict_all(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
    ) -> list[ImagePrediction | BaseException]:
        """Predict the pictures of one request, each as `predict`, all of them or none.

        Returns:
            For each picture its prediction, or the error that is its answer.
        """
        now = time.monotonic()
        results = list[ImagePrediction | BaseException]()
        requests = await _usual_requests(model, payloads, parameters, "overlay")
        right = [request for request in requests if not isinstance(request, VitrineError)]
        try:
            if model.map_method == RISE:
                work = self._rise.predict_all(model, right, parameters, deadline)
            else:  # the explanations get half of the time; the rest is for predicting without them
                work = self._by_gradient(model, right, parameters, now + (deadline - now) / 2)
            predicted = await work
            _count(model, right, now, predicted)
            explained = iter(predicted)
            results += [request if isinstance(request, VitrineError) else next(explained) for request in requests]
        except VitrineError as error:
            results += [request if isinstance(request, VitrineError) else error for request in requests]
        without = [
            place
            for place, result in enumerate(results)
            if isinstance(result, VitrineError) and not _is_of_picture(result)
        ]
        if not without:  # also where the model answers no longer
            return results
        futures = map(awaitable, model.submit_all([payloads[place] for place in without], deadline))
        answers = await asyncio.gather(*futures, return_exceptions=True)
        for place, answer in zip(without, answers, strict=True):
            if isinstance(answer, BaseException):
                results[place] = answer
            else:
                prediction = image_prediction(model, answer, parameters)
                results[place] = prediction._replace(explanation_error=str(results[place]))
        return results

    async def map_all(
        self,
        model: LoadedModel,
        payloads: Sequence[ImagePayload],
        parameters: PredictionParameters,
        deadline: float,
        caller: Caller | None = None,
    ) -> list[ImagePrediction | BaseException]:
        """Predict the pictures of one request, and give the usual map of the label that is answered to each."""
        requests = await _usual_requests(model, payloads, parameters, "map")
        right = [request for request in requests if not isinstance(request, VitrineError)]
        explained = iter(await self.explain_all(model, right, parameters, deadline, caller) if right else ())
        return [request if isinstance(request, VitrineError) else next(explained) for request in requests]

    async def _by_gradient(
        self,
        model: LoadedModel,
        requests: Sequence[ExplanationRequest],
        parameters: PredictionParameters,
        deadline: float,
    ) -> list[ImagePrediction | BaseException]:
        """Return for each picture its prediction with the explanations, or what is wrong with it.

        Raises:
            VitrineError: not one could be explained.
        """
        model.check_ready()
        for method in {request.method for request in requests}:
            model.check_method(method)
        if self._client is None:
            raise Unavailable("Explanations are switched off on this server (VITRINE_EXPLAIN=false).", 60)
        results, labels = list[ImagePrediction | BaseException](), as_image_card(model.card).labels
        answers = await self._client.explain(model.tag, requests, deadline)
        for request, answer in zip(requests, answers, strict=True):
            if isinstance(answer, VitrineError):
                results.append(answer)
            elif any(explanation.target == request.contrast for explanation in answer.value.explanations):
                results.append(is_own_contrast(labels[request.contrast]))
            else:
                results.append(image_prediction(model, answer, parameters, answer.value.explanations))
        return results


async def usual_request(
    model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, output: Output
) -> ExplanationRequest:
    """Return the request to explain the label that is answered by the method that is usual for the model."""
    request = await default_request(as_image_card(model.card), payload, parameters.threshold, output)
    return replace(request, method=model.map_method)


async def _usual_requests(
    model: LoadedModel, payloads: Sequence[ImagePayload], parameters: PredictionParameters, output: Output
) -> list[ExplanationRequest | VitrineError]:
    """Return the usual request for each picture, or why there is none."""
    requests = list[ExplanationRequest | VitrineError]()
    for payload in payloads:
        try:
            requests.append(await usual_request(model, payload, parameters, output))
        except VitrineError as error:
            requests.append(error)
    return requests


def _result(explained: ImagePrediction | BaseException) -> ImagePrediction:
    if isinstance(explained, BaseException):
        raise explained
    return explained


def _count(
    model: LoadedModel,
    requests: Sequence[ExplanationRequest],
    started: float,
    results: Sequence[ImagePrediction | BaseException],
) -> None:
    """Count in the metrics the pictures that got an explanation, each by the method that it was asked for."""
    for request, result in zip(requests, results, strict=True):
        if not isinstance(result, BaseException) and result.explanations:
            model.meters.explained(request.method, started)


def _is_of_picture(error: VitrineError) -> bool:
    """Return whether a picture could not be predicted either."""
    return isinstance(error, InvalidInput) and not isinstance(error, NoExplanation)
