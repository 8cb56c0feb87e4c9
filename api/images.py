"""Predictions of pictures, with a heatmap where one is asked for: read, queue, wait, interpret."""

import asyncio
import base64
import time
from typing import Any

from fastapi import Request
from starlette.responses import Response

from api.answers import about, classified
from api.body import read_many, read_one
from api.parameters import Parameters, read_parameters
from api.problems import problem_of
from api.schemas import BatchAnswer, BatchError, BatchPrediction, Prediction, timestamp
from api.waiting import race, timing_of
from backends.base import AnsweredBy
from errors import InvalidInput, NoExplanation, QueueFull, Unavailable, VitrineError
from explain.base import PREDICTED
from explain.overlay import Output
from models.card import ImageCard
from postprocessing.interpret import interpret
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.gradcam.client import RemoteExplainer
from serving.gradcam.worker import Ask, Explained
from serving.loaded_model import ServedModel
from serving.pipeline import EARLY, LATE, Inferred

ALPHA = 0.5
"""Opacity of an overlay at its peak, where none is asked for."""
AT_ONCE = 8
"""Explanations of one batch that are under way together; more would run out of their time waiting for each other."""


class Pictures:
    """Answers for the image models of one process.

    Args:
        timeout_ms: the longest that a request may take.
        explainer: the Grad-CAM runner; None where it is switched off.
    """

    def __init__(self, timeout_ms: float, explainer: RemoteExplainer | None) -> None:
        self._timeout_ms, self._explainer = timeout_ms, explainer

    async def one(self, model: ServedModel, card: ImageCard, request: Request) -> Response:
        """Answer a request of one picture."""
        model.check_ready()
        parameters = read_parameters(request.query_params, card)
        deadline = self.deadline(parameters.timeout_ms)
        upload = await read_one(request)
        request_id = request.state.request_id
        if parameters.include_gradcam:
            work = self.predict(model, card, upload.data, parameters, deadline, request_id)
            body, answer = await race(work, request, deadline)
        else:  # without a task of its own
            answer = await race(awaitable(model.submit(upload.data, deadline)), request, deadline)
            body = prediction(model, card, answer, parameters, request_id)
        exclude = None if parameters.include_gradcam else {"explanation_error"}
        return Response(body.model_dump_json(exclude=exclude), 200, timing_of([answer]), "application/json")

    async def many(self, model: ServedModel, card: ImageCard, request: Request) -> Response:
        """Answer a request of several pictures; one that is wrong fails alone."""
        started = time.monotonic()
        parameters = read_parameters(request.query_params, card)
        deadline, request_id = self.deadline(parameters.timeout_ms), request.state.request_id
        uploads = await read_many(request, card.limits.max_items)
        model.check_ready()
        gate = asyncio.Semaphore(AT_ONCE if parameters.include_gradcam else len(uploads))

        async def one(data: bytes) -> tuple[Prediction, Answer[Any]]:
            async with gate:
                return await self.predict(model, card, data, parameters, deadline, request_id)

        work = [one(upload.data) for upload in uploads]
        done = await race(asyncio.gather(*work, return_exceptions=True), request, deadline)
        if all(isinstance(each, QueueFull | Unavailable) for each in done):
            raise next(each for each in done if isinstance(each, VitrineError))
        rows, answers = list[BatchPrediction | BatchError](), list[Answer[Any]]()
        for upload, each in zip(uploads, done, strict=True):
            if isinstance(each, BaseException):
                rows.append(BatchError(filename=upload.filename, error=problem_of(each, request_id)))
            else:
                rows.append(BatchPrediction(filename=upload.filename, **each[0].model_dump()))
                answers.append(each[1])
        errors = sum(isinstance(row, BatchError) for row in rows)
        body = BatchAnswer(
            model=model.name,
            version=model.version or "",
            batch_size=len(rows),
            errors=errors,
            inference_time_ms=round((time.monotonic() - started) * 1e3, 3),
            predictions=rows,
        )
        exclude = None if parameters.include_gradcam else {"predictions": {"__all__": {"explanation_error"}}}
        return Response(body.model_dump_json(exclude=exclude), 200, timing_of(answers), "application/json")

    async def predict(
        self, model: ServedModel, card: ImageCard, data: bytes, parameters: Parameters, deadline: float, request_id: str
    ) -> tuple[Prediction, Answer[Any]]:
        """One picture, explained if that was asked for; where the Grad-CAM runner cannot, the Runner predicts."""
        why_not = None
        if parameters.include_gradcam:
            try:
                # Half of the time at most: the rest is for predicting without it.
                now = time.monotonic()
                explained = await self.explain(
                    model, default_ask(card, data, parameters.threshold), now + (deadline - now) / 2
                )
                body = prediction(model, card, explained, parameters, request_id)
                body.gradcam_heatmap = base64.b64encode(explained.value.picture or b"").decode()
                return body, explained
            except NoExplanation as error:
                why_not = str(error)
            except InvalidInput:
                raise
            except VitrineError as error:
                why_not = str(error)
        answer = await awaitable(model.submit(data, deadline))
        body = prediction(model, card, answer, parameters, request_id)
        body.explanation_error = why_not
        return body, answer

    async def explain(self, model: ServedModel, ask: Ask, deadline: float) -> Answer[Explained]:
        """One pass of the Grad-CAM runner: prediction and map.

        Raises:
            NoExplanation: the model has none; the message says why.
            Unavailable: the model or the Grad-CAM runner is not ready.
        """
        model.check_ready()
        if model.unexplained:
            raise NoExplanation(f"There is no explanation: {model.unexplained}.")
        if self._explainer is None:
            raise Unavailable("Explanations are switched off on this server (VITRINE_EXPLAIN=false).", 60)
        return await self._explainer.explain(model.tag, ask, deadline)

    def deadline(self, asked_ms: float | None, began: float | None = None) -> float:
        """When a request that began then, or begins now, has to be answered, as `time.monotonic()` tells it."""
        asked = asked_ms or self._timeout_ms
        return (time.monotonic() if began is None else began) + min(asked, self._timeout_ms) / 1000


def default_ask(card: ImageCard, data: bytes, threshold: float | None, output: Output = "overlay") -> Ask:
    """What a card's own method makes of the predicted class: an overlay at the upload's size, or the bare map."""
    method = card.explain.method if card.explain else ""
    return Ask(data, PREDICTED, method, output, ALPHA, at_input_size=output == "map", threshold=threshold)


def blurry(card: ImageCard, sharpness: float | None) -> str:
    """A warning about a picture that is less sharp than the card asks for; empty where there is none to give."""
    limit = card.input.blur_below
    if limit is None or sharpness is None or sharpness >= limit:
        return ""
    return f"The picture is blurry (sharpness {sharpness:.0f}, under {limit:.0f}): trust this less."


def beyond_limits(card: ImageCard, by: str | None, threshold: float | None) -> str:
    """A warning about an early answer that is judged by a threshold which its exit was not chosen for; else empty."""
    limits = card.early_exit
    if by != EARLY or limits is None or threshold is None or limits.clear_below <= threshold <= limits.clear_from:
        return ""
    return (
        f"The early exit answered, which is meant for thresholds from {limits.clear_below:g} to {limits.clear_from:g}: "
        f"at {threshold:g} trust this less, or ask a version without it."
    )


def prediction(
    model: ServedModel,
    card: ImageCard,
    answer: Answer[Inferred] | Answer[Explained],
    parameters: Parameters,
    request_id: str,
) -> Prediction:
    """One answer as JSON will say it."""
    inferred = answer.value
    said = interpret(inferred.logits, card, threshold=parameters.threshold, top_k=parameters.top_k)
    warnings = list(card.warnings)
    by = answered_by(model, inferred)
    warnings += filter(None, (blurry(card, inferred.sharpness), beyond_limits(card, by, parameters.threshold)))
    common = classified(said) | about(model, answer, warnings, request_id)
    return Prediction(**common, timestamp=timestamp(), answered_by=by)


def answered_by(model: ServedModel, value: Inferred | Explained) -> AnsweredBy | None:
    """Who answered, of a model with an early exit; an explanation is always the network's."""
    if not model.exits:
        return None
    return value.answered_by if isinstance(value, Inferred) else LATE
