"""The prediction routes: read, queue, wait, interpret."""

import asyncio
import time
from concurrent.futures import Future
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from api.body import read_many, read_one
from api.parameters import Parameters, read_parameters
from api.problems import ClientGone, problem_of
from api.schemas import BatchAnswer, BatchError, BatchPrediction, Prediction, Problem, TopLabel, timestamp
from errors import DeadlineExceeded, VitrineError
from models.interpret import interpret
from runners.runner import Answer
from runners.served import Inferred, ServedModel, ServedModels
from settings import Settings

NO_EXPLANATION = "Explanations are not part of this version."
_PICTURE = {"schema": {"type": "string", "format": "binary"}}
_FORM = {"type": "object", "properties": {"file": {"type": "string", "format": "binary"}}, "required": ["file"]}
_FORMS = {
    "type": "object",
    "properties": {"files": {"type": "array", "items": {"type": "string", "format": "binary"}}},
    "required": ["files"],
}
_QUERY = [
    ("threshold", {"type": "number", "minimum": 0, "maximum": 1}, "Instead of the card's."),
    ("top_k", {"type": "integer", "minimum": 1}, "How many of the most probable labels to list in `top`."),
    ("timeout_ms", {"type": "number", "minimum": 1}, "Answer 504 rather than later than this."),
    ("include_gradcam", {"type": "boolean"}, "Ask for a heatmap; `explanation_error` says why there is none."),
]
_PARAMETERS = [{"name": name, "in": "query", "schema": schema, "description": text} for name, schema, text in _QUERY]
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


def _body(form: dict[str, Any], *, raw: bool) -> dict[str, Any]:
    content: dict[str, Any] = {"multipart/form-data": {"schema": form}}
    if raw:
        content |= {"image/png": _PICTURE, "image/jpeg": _PICTURE}
    return {"requestBody": {"required": True, "content": content}, "parameters": _PARAMETERS}


class Predictor:
    """Answers for the models of one process."""

    def __init__(self, served: ServedModels, settings: Settings) -> None:
        self._served, self._settings = served, settings

    def routes(self) -> APIRouter:
        """The routes with and without a model's name."""
        router = APIRouter(tags=["predict"], responses=ERRORS)
        one, many = _body(_FORM, raw=True), _body(_FORMS, raw=False)
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

    async def _predict(self, request: Request, name: str | None) -> Response:
        model = self._served.get(name)
        parameters = read_parameters(request.query_params, len(model.card.labels))
        deadline = self._deadline(parameters)
        upload = await read_one(request)
        future = model.submit(upload.data, deadline)
        await wait_for([future], request, deadline)
        answer = future.result()
        body = prediction(model, answer, parameters, request.state.request_id)
        timing = f"queue;dur={answer.queue_ms:.2f}, decode;dur={answer.decode_ms:.2f}, infer;dur={answer.infer_ms:.2f}"
        exclude = None if parameters.include_gradcam else {"explanation_error"}
        return Response(body.model_dump_json(exclude=exclude), 200, {"Server-Timing": timing}, "application/json")

    async def _batch(self, request: Request, name: str | None) -> Response:
        started = time.monotonic()
        model = self._served.get(name)
        parameters = read_parameters(request.query_params, len(model.card.labels))
        deadline = self._deadline(parameters)
        uploads = await read_many(request, model.card.limits.max_items)
        futures = submit_all(model, [upload.data for upload in uploads], deadline)
        await wait_for([each for each in futures if isinstance(each, Future)], request, deadline)
        request_id, rows = request.state.request_id, list[BatchPrediction | BatchError]()
        decode = infer = queue = 0.0
        for upload, future in zip(uploads, futures, strict=True):
            error = future if isinstance(future, VitrineError) else future.exception()
            if error is not None:
                rows.append(BatchError(filename=upload.filename, error=problem_of(error, request_id)))
            elif isinstance(future, Future):
                answer = future.result()
                queue, decode, infer = max(queue, answer.queue_ms), decode + answer.decode_ms, infer + answer.infer_ms
                one = prediction(model, answer, parameters, request_id)
                rows.append(BatchPrediction(filename=upload.filename, **one.model_dump()))
        errors = sum(isinstance(row, BatchError) for row in rows)
        body = BatchAnswer(
            model=model.name,
            version=model.version or "",
            batch_size=len(rows),
            errors=errors,
            inference_time_ms=round((time.monotonic() - started) * 1e3, 3),
            predictions=rows,
        )
        timing = f"queue;dur={queue:.2f}, decode;dur={decode:.2f}, infer;dur={infer:.2f}"
        return Response(body.model_dump_json(), 200, {"Server-Timing": timing}, "application/json")

    def _deadline(self, parameters: Parameters) -> float:
        asked = parameters.timeout_ms or self._settings.timeout_ms
        return time.monotonic() + min(asked, self._settings.timeout_ms) / 1000


def submit_all(
    model: ServedModel, items: list[bytes], deadline: float
) -> "list[Future[Answer[Inferred]] | VitrineError]":
    """Queue each item; where one is refused (the queue is full), its error instead. Raised if nothing was queued."""
    queued: list[Future[Answer[Inferred]] | VitrineError] = []
    for item in items:
        try:
            queued.append(model.submit(item, deadline))
        except VitrineError as error:
            if not queued:
                raise
            queued.append(error)
    return queued


async def wait_for(futures: "list[Future[Any]]", request: Request, deadline: float) -> None:
    """Wait until every future is done; a client that hangs up, or the deadline, cancels those that are not.

    Raises:
        ClientGone: nobody is there to answer.
        DeadlineExceeded: the deadline passed; for one item only, in a batch the futures themselves tell.
    """
    done: asyncio.Future[Any] = asyncio.gather(*map(asyncio.wrap_future, futures), return_exceptions=True)
    gone: asyncio.Future[Any] = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait({done, gone}, timeout=deadline - time.monotonic(), return_when=asyncio.FIRST_COMPLETED)
        if done.done():
            return
        for future in futures:
            future.cancel()
        if gone.done():
            raise ClientGone
        raise DeadlineExceeded(
            "The answer was not there before the deadline. Allow more time with timeout_ms, or retry."
        )
    finally:
        gone.cancel()
        if not done.done():
            done.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def prediction(model: ServedModel, answer: Answer[Inferred], parameters: Parameters, request_id: str) -> Prediction:
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
        explanation_error=NO_EXPLANATION if parameters.include_gradcam else None,
        warnings=warnings,
        device=model.device or "",
        inference_time_ms=round(answer.decode_ms + answer.infer_ms, 3),
        request_id=request_id,
        timestamp=timestamp(),
    )
