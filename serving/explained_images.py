"""Predictions of pictures together with where the model looked: by a gradient in the Grad-CAM process, or by RISE."""

import time
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
from serving.waiting import AT_ONCE


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
        if request.method == RISE:
            started = time.monotonic()
            prediction = await self._rise.explain(model, request, parameters, deadline, progress)
            model.meters.explained(RISE, started)
            return prediction
        prediction = await self._by_gradient(model, request, parameters, deadline)
        if any(explanation.target == request.contrast for explanation in prediction.explanations):
            raise is_own_contrast(as_image_card(model.card).labels[request.contrast])
        return prediction

    async def predict(
        self, model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        """Predict with an explanation; where there is none, predict without it and say why."""
        now = time.monotonic()
        try:
            request = await usual_request(model, payload, parameters, "overlay")
            if request.method == RISE:
                prediction = await self._rise.predict(model, request, parameters, deadline)
                if prediction.explanations:
                    model.meters.explained(RISE, now)
                return prediction
            # The explanation gets half of the time; the rest is for predicting without it.
            return await self._by_gradient(model, request, parameters, now + (deadline - now) / 2)
        except VitrineError as error:
            if isinstance(error, InvalidInput) and not isinstance(error, NoExplanation):
                raise
            explanation_error = str(error)
        prediction = image_prediction(model, await awaitable(model.submit(payload, deadline)), parameters)
        return prediction._replace(explanation_error=explanation_error)

    async def map(
        self, model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        """Predict and give the usual map of the label that is answered."""
        request = await usual_request(model, payload, parameters, "map")
        return await self.explain(model, request, parameters, deadline)

    async def _by_gradient(
        self, model: LoadedModel, request: ExplanationRequest, parameters: PredictionParameters, deadline: float
    ) -> ImagePrediction:
        started = time.monotonic()
        model.check_ready()
        model.check_method(request.method)
        if self._client is None:
            raise Unavailable("Explanations are switched off on this server (VITRINE_EXPLAIN=false).", 60)
        answer = await self._client.explain(model.tag, request, deadline)
        model.meters.explained(request.method, started)
        return image_prediction(model, answer, parameters, answer.value.explanations)


async def usual_request(
    model: LoadedModel, payload: ImagePayload, parameters: PredictionParameters, output: Output
) -> ExplanationRequest:
    """Return the request to explain the label that is answered by the method that is usual for the model."""
    request = await default_request(as_image_card(model.card), payload, parameters.threshold, output)
    return replace(request, method=model.map_method)


def at_once(model: LoadedModel, method: str = "") -> int:
    """Return how many pictures of one request are explained together; by RISE it is one, which keeps the lanes busy."""
    return 1 if (method or model.map_method) == RISE else AT_ONCE
