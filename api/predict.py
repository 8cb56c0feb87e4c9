"""The prediction routes: read, queue, wait, interpret."""

import asyncio
import base64
import time
from collections.abc import Awaitable, Sequence
from typing import Any, TypeVar

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.body import read_many, read_one
from api.parameters import Parameters, read_parameters
from api.problems import ClientGone, problem_of
from api.schemas import BatchAnswer, BatchError, BatchPrediction, Prediction, Problem, TopLabel, timestamp
from errors import DeadlineExceeded, InvalidInput, NoExplanation, QueueFull, Unavailable, VitrineError
from explain.base import PREDICTED
from models.card import ModelCard
from models.interpret import interpret
from runners.explained import Ask, Explained
from runners.remote import RemoteExplainer
from runners.runner import Answer
from runners.served import Inferred, ServedModel, ServedModels
from settings import Settings

T = TypeVar("T")

ALPHA = 0.5
"""Opacity of an overlay at its peak, where none is asked for."""
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
FORM = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
_FORMS = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["files"],
}
QUERY: list[tuple[str, dict[str, Any], str]] = [
    ("threshold", {"type": "number", "minimum": 0, "maximum": 1}, "Instead of the card's."),
    ("top_k", {"type": "integer", "minimum": 1}, "How many of the most probable labels to list in `top`."),
    ("timeout_ms", {"type": "number", "minimum": 1}, "Answer 504 rather than later than this."),
    ("include_gradcam", {"type": "boolean"}, "Ask for a heatmap; `explanation_error` says why there is none."),
]
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text, "content": {"application/problem+json": {}}}
    for status, text in (
        (400, "Not an image, damaged, wrong field or parameter"),
        (404, "Unknown model; the known ones are listed"),
        (413, "Too many bytes or pixels"),
        (429, "The queue is full; see Retry-After"),
        (503, "Starting, draining, or the self-check failed"),
        (504, "The deadline passed"),
    )
}


def body_of(form: dict[str, Any], query: Sequence[tuple[str, dict[str, Any], str]], *, raw: bool) -> dict[str, Any]:
    """What OpenAPI says of a route that takes pictures."""
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content |= {"image/png": _PICTURE, "image/jpeg": _PICTURE}
    listed = [{"name": name, "in": "query", "schema": schema, "description": text} for name, schema, text in query]
    return {"requestBody": {"required": True, "content": content}, "parameters": listed}


class Predictor:
    """Answers for the models of one process."""

    def __init__(self, served: ServedModels, settings: Settings, explainer: RemoteExplainer | None) -> None:
        self._served, self._settings, self._explainer = served, settings, explainer

    def routes(self) -> APIRouter:
        """The routes with and without a model's name."""
        router = APIRouter(tags=["predict"], responses=ERRORS)
        one, many = body_of(FORM, QUERY, raw=True), body_of(_FORMS, QUERY, raw=False)
        for path, shown in (("/models/{name}/predict", True), ("/predict", True), ("/infer", False)):
            endpoint = self.named if "{name}" in path else self.default
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=Prediction,
                openapi_extra=one,
                include_in_schema=shown,
                summary="Predict one picture",
            )
        for path in ("/models/{name}/predict/batch", "/predict/batch"):
            endpoint = self.named_batch if "{name}" in path else self.default_batch
            router.add_api_route(
                path,
                endpoint,
                methods=["POST"],
                response_model=BatchAnswer,
                openapi_extra=many,
                summary="Predict several pictures",
            )
        return router

    async def named(self, request: Request, name: str) -> Response:
        """Predict one picture: a form with one `file` (or `image`), or the encoded picture as the body."""
        return await self._predict(request, name)

    async def default(self, request: Request) -> Response:
        """Predict one picture with the default model."""
        return await self._predict(request, None)

    async def named_batch(self, request: Request, name: str) -> Response:
        """Predict several pictures: a form with several `files`. One that is wrong fails alone."""
        return await self._batch(request, name)

    async def default_batch(self, request: Request) -> Response:
        """Predict several pictures with the default model."""
        return await self._batch(request, None)

    async def predict_bytes(self, data: bytes, request_id: str) -> dict[str, Any]:
        """One prediction for BentoML's own route, by the default model and its card."""
        model = self._served.get()
        parameters = Parameters(1, None, None, include_gradcam=False)
        future = model.submit(data, time.monotonic() + self._settings.timeout_ms / 1000)
        answer = await asyncio.wrap_future(future)
        return prediction(model, answer, parameters, request_id).model_dump(exclude={"explanation_error"})

    async def predict(
        self, model: ServedModel, data: bytes, parameters: Parameters, deadline: float, request_id: str
    ) -> tuple[Prediction, Answer[Any]]:
        """One picture, explained if that was asked for; where the Grad-CAM runner cannot, the Runner predicts."""
        why_not = None
        if parameters.include_gradcam:
            try:
                # Half of the time at most: the rest is for predicting without it.
                now = time.monotonic()
                explained = await self.explain(model, default_ask(model.card, data), now + (deadline - now) / 2)
                body = prediction(model, explained, parameters, request_id)
                body.gradcam_heatmap = base64.b64encode(explained.value.picture or b"").decode()
                return body, explained
            except NoExplanation as error:
                why_not = str(error)
            except InvalidInput:
                raise
            except VitrineError as error:
                why_not = str(error)
        answer = await asyncio.wrap_future(model.submit(data, deadline))
        body = prediction(model, answer, parameters, request_id)
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
        return await self._explainer.explain(model.name, ask, deadline)

    async def _predict(self, request: Request, name: str | None) -> Response:
        model = self._served.get(name)
        parameters = read_parameters(request.query_params, len(model.card.labels))
        deadline = self.deadline(parameters)
        upload = await read_one(request)
        work = self.predict(model, upload.data, parameters, deadline, request.state.request_id)
        body, answer = await race(work, request, deadline)
        exclude = None if parameters.include_gradcam else {"explanation_error"}
        return Response(body.model_dump_json(exclude=exclude), 200, timing_of([answer]), "application/json")

    async def _batch(self, request: Request, name: str | None) -> Response:
        started = time.monotonic()
        model = self._served.get(name)
        parameters = read_parameters(request.query_params, len(model.card.labels))
        deadline, request_id = self.deadline(parameters), request.state.request_id
        uploads = await read_many(request, model.card.limits.max_items)
        model.check_ready()
        work = [self.predict(model, upload.data, parameters, deadline, request_id) for upload in uploads]
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
        return Response(body.model_dump_json(), 200, timing_of(answers), "application/json")

    def deadline(self, parameters: Parameters) -> float:
        """When a request that begins now has to be answered, as `time.monotonic()` tells it."""
        asked = parameters.timeout_ms or self._settings.timeout_ms
        return time.monotonic() + min(asked, self._settings.timeout_ms) / 1000


def default_ask(card: ModelCard, data: bytes) -> Ask:
    """The overlay that a card's own method draws of the predicted class, at the upload's size."""
    method = card.explain.method if card.explain else ""
    return Ask(data, PREDICTED, method, "overlay", ALPHA, at_input_size=False)


async def race(work: Awaitable[T], request: Request, deadline: float) -> T:
    """Await work until it is done; a client that hangs up, or the deadline, cancels it.

    Raises:
        ClientGone: nobody is there to answer.
        DeadlineExceeded: the deadline passed.
    """
    done, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(request))
    try:
        left = max(0.0, deadline - time.monotonic())
        await asyncio.wait({done, gone}, timeout=left, return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return done.result()
        if gone.done():
            raise ClientGone
        raise DeadlineExceeded(
            "The answer was not there before the deadline. Allow more time with timeout_ms, or retry."
        )
    finally:
        gone.cancel()
        done.cancel()


def timing_of(answers: Sequence[Answer[Any]]) -> dict[str, str]:
    """The Server-Timing header: the longest wait, and the sums of decoding and inference."""
    queue = max((each.queue_ms for each in answers), default=0.0)
    decode, infer = sum(each.decode_ms for each in answers), sum(each.infer_ms for each in answers)
    return {"Server-Timing": f"queue;dur={queue:.2f}, decode;dur={decode:.2f}, infer;dur={infer:.2f}"}


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def prediction(
    model: ServedModel, answer: Answer[Inferred] | Answer[Explained], parameters: Parameters, request_id: str
) -> Prediction:
    """One answer as JSON will say it."""
    card, inferred = model.card, answer.value
    said = interpret(inferred.logits, card, threshold=parameters.threshold, top_k=parameters.top_k)
    warnings = list(card.warnings)
    limit = card.input.blur_below
    if limit is not None and inferred.sharpness is not None and inferred.sharpness < limit:
        warnings.append(
            f"The picture is blurry (sharpness {inferred.sharpness:.0f}, under {limit:.0f}): trust this less."
        )
    return Prediction(
        model=model.name,
        version=model.version or "",
        prediction=said.label,
        predicted_class_id=said.class_id,
        confidence=said.confidence,
        probabilities=said.probabilities,
        top=[TopLabel(label=each.label, probability=each.probability) for each in said.top],
        threshold=said.threshold,
        warnings=warnings,
        device=model.device or "",
        inference_time_ms=round(answer.decode_ms + answer.infer_ms, 3),
        request_id=request_id,
        timestamp=timestamp(),
    )
