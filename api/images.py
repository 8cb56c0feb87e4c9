"""Predictions and explanations of pictures over HTTP: from a request to the core, and from its answer to JSON."""

import time
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from api.aliases import with_aliases
from api.answers import batch_json, classification_fields, origin_fields, prediction_json
from api.body import Upload, read_many, read_one
from api.caller import HttpCaller, TimedJson, timing_headers
from api.explanation_facts import explanation_details, heatmap_base64
from api.grants import charge_items, check_scope
from api.parameters import ExplanationQuery, PredictionQuery
from api.problems import log_failure, problem_of
from api.progress import ProgressResponse, wants_progress
from api.schemas import (
    BatchAnswer,
    BatchError,
    BatchPrediction,
    ClassExplanation,
    ExplainedBatchAnswer,
    ExplainedBatchPrediction,
    ExplainedPrediction,
    Prediction,
    timestamp,
)
from errors import DeadlineExceeded, InvalidInput, QueueFull, Unavailable
from explain.rise import RISE
from models.answer import LabelForm
from models.card import as_image_card
from serving.gradcam.wire import ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.predictions import ImagePrediction, PredictionParameters
from serving.predictor import Predictor
from serving.rise import Progress

Schema = TypeVar("Schema", bound=Prediction)
Explained = TypeVar("Explained", bound=ExplainedPrediction)
Result = TypeVar("Result")


async def predict(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the prediction of one picture."""
    model.check_ready()  # before the body is read
    card = as_image_card(model.card)
    query = PredictionQuery.read(request.scope["query_string"], card)
    deadline, parameters = predictor.deadline(query.timeout_ms), query.parameters(card, predictor.top_k)
    if parameters.with_heatmap:
        check_scope(model.name, "explain")
    else:
        model.check_room(for_lanes=False)  # before the body is read
    upload, caller = await read_one(request), HttpCaller(request)
    await charge_items(1)
    prediction = await predictor.predict_image(model, upload.data, parameters, deadline, caller)
    request_id, form = request.state.request_id, query.label_form(card)
    return answered(model, prediction, parameters, request_id, form, upload.filename)


def answered(
    model: LoadedModel,
    prediction: ImagePrediction,
    parameters: PredictionParameters,
    request_id: str,
    form: LabelForm,
    filename: str | None = None,
) -> TimedJson:
    """Return the answer to the request for one prediction, which had these parameters."""
    if not parameters.with_heatmap and not model.card.answer.also:
        return TimedJson(prediction_json(model, prediction, request_id, form, filename), [prediction.answer])
    body: Prediction = prediction_answer(model, prediction, request_id, form, filename=filename)
    exclude = None if parameters.with_heatmap else {"explanation_error"}
    return TimedJson(body.model_dump_json(exclude=exclude), [prediction.answer])


async def predict_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions of several pictures; one that is wrong fails alone.

    Raises:
        VitrineError: not one picture could be queued, or all are late.
    """
    model.check_ready()  # before the body is read
    started, card = time.monotonic(), as_image_card(model.card)
    query = PredictionQuery.read(request.scope["query_string"], card)
    deadline, parameters = predictor.deadline(query.timeout_ms), query.parameters(card, predictor.top_k)
    if parameters.with_heatmap:
        check_scope(model.name, "explain")
    else:
        model.check_room()  # before the body is read
    uploads, caller = await read_many(request, card.limits.max_items), HttpCaller(request)
    await charge_items(len(uploads))
    request_id, form = request.state.request_id, query.label_form(card)
    payloads = [upload.data for upload in uploads]
    results = await predictor.predict_images(model, payloads, parameters, deadline, caller)

    def entry(upload: Upload, prediction: ImagePrediction) -> BatchPrediction:
        return prediction_answer(model, prediction, request_id, form, BatchPrediction, filename=upload.filename)

    body = BatchAnswer(**_batch_fields(model, _entries(uploads, results, request_id, entry), started))
    left_out = None if parameters.with_heatmap else {"explanation_error"}
    answers = [result.answer for result in results if not isinstance(result, BaseException)]
    return TimedJson(batch_json(body, card.answer, left_out), answers)


async def explain(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with a prediction and where the network looked; RISE says how far it is to a client that asks for that.

    Raises:
        NoExplanation: the method takes a gradient, and the model has none; the message says why.
        Unavailable: the model is not ready.
    """
    model.check_ready()  # before the body is read
    card = as_image_card(model.card)
    query = ExplanationQuery.read(request.scope["query_string"], card)
    method = query.method or model.map_method
    model.check_method(method)
    if method == RISE:
        model.check_room()
    deadline = predictor.deadline(query.timeout_ms)
    upload = await read_one(request)
    await charge_items(1)
    explanation_request = query.request(upload.data, card, method)
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    if query.format == "png" and max(len(explanation_request.targets), explanation_request.top) > 1:
        raise InvalidInput("format='png': a picture is of one class. Ask for one, or for format=json.")
    request_id, form = request.state.request_id, query.label_form(card)

    async def answer(progress: Progress | None = None) -> Response:
        try:
            prediction = await predictor.explain_image(
                model, explanation_request, parameters, deadline, caller, progress=progress
            )
        except DeadlineExceeded as error:
            if method != RISE:
                raise
            raise DeadlineExceeded(f"{error} Fewer samples than {query.samples:,} take less time.") from error
        if query.format == "png":
            picture = prediction.explanation.picture if prediction.explanation else None
            return Response(picture, 200, timing_headers([prediction.answer]), "image/png")
        schema, name = ExplainedPrediction, upload.filename
        body = explained_answer(model, prediction, explanation_request, request_id, form, schema, filename=name)
        return TimedJson(body.model_dump_json(exclude={"explanation_error"}), [prediction.answer])

    if method == RISE and query.format == "json" and wants_progress(request):
        return ProgressResponse(answer, request_id)
    return await answer()


async def explain_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions and explanations of several pictures; one that is wrong fails alone.

    Raises:
        VitrineError: as `explain`; not one picture could be queued, or all are late.
    """
    model.check_ready()  # before the body is read
    started, card = time.monotonic(), as_image_card(model.card)
    query = ExplanationQuery.read(request.scope["query_string"], card)
    if query.format == "png":
        raise InvalidInput("format='png': a batch is answered in JSON, which holds each heatmap in base64.")
    method = query.method or model.map_method
    model.check_method(method)
    if method == RISE:
        model.check_room()
    deadline = predictor.deadline(query.timeout_ms)
    uploads = await read_many(request, card.limits.max_items)
    await charge_items(len(uploads))
    request_id, form = request.state.request_id, query.label_form(card)
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    requests = [query.request(upload.data, card, method) for upload in uploads]
    results = await predictor.explain_images(model, requests, parameters, deadline, caller)

    def entry(upload: Upload, prediction: ImagePrediction) -> BatchPrediction:
        schema = ExplainedBatchPrediction
        return explained_answer(model, prediction, requests[0], request_id, form, schema, filename=upload.filename)

    body = ExplainedBatchAnswer(**_batch_fields(model, _entries(uploads, results, request_id, entry), started))
    answers = [result.answer for result in results if not isinstance(result, BaseException)]
    return TimedJson(batch_json(body, card.answer, {"explanation_error"}), answers)


def _entries(
    uploads: Sequence[Upload],
    results: Sequence[Result | BaseException],
    request_id: str,
    entry: Callable[[Upload, Result], BatchPrediction],
) -> list[BatchPrediction | BatchError]:
    """Return an entry for each picture of a batch, which tells what is wrong with it or is made of its result.

    Raises:
        VitrineError: not one picture could be queued, or all are late.
    """
    refusals = [result for result in results if isinstance(result, DeadlineExceeded | QueueFull | Unavailable)]
    if len(refusals) == len(results):
        raise refusals[0]
    for result in results:
        if isinstance(result, BaseException):
            log_failure(result, request_id)
    return [
        BatchError(filename=upload.filename, error=problem_of(result, request_id))
        if isinstance(result, BaseException)
        else entry(upload, result)
        for upload, result in zip(uploads, results, strict=True)
    ]


def _batch_fields(
    model: LoadedModel, entries: Sequence[BatchPrediction | BatchError], started: float
) -> dict[str, Any]:
    return {
        "model": model.name,
        "version": model.version or "",
        "batch_size": len(entries),
        "errors": sum(isinstance(entry, BatchError) for entry in entries),
        "inference_time_ms": round((time.monotonic() - started) * 1e3, 3),
        "predictions": entries,
    }


def explained_answer(
    model: LoadedModel,
    prediction: ImagePrediction,
    request: ExplanationRequest,
    request_id: str,
    form: LabelForm,
    schema: type[Explained],
    **more: object,
) -> Explained:
    """Return what was predicted of one picture, with the explanation of each class that was asked for.

    Args:
        model: the model.
        prediction: with its explanations.
        request: how they were asked for.
        request_id: of the HTTP request.
        form: whether a label is named or given by its index.
        schema: of the answer.
        more: the fields that only this schema has.
    """
    card, explanations = as_image_card(model.card), prediction.explanations
    facts = [explanation_details(card, explanation, prediction.answer, request) for explanation in explanations]
    if len(facts) > 1:
        more["explanations"] = [
            ClassExplanation(**dict(fact), gradcam_heatmap=heatmap_base64(explanation))
            for fact, explanation in zip(facts, explanations, strict=True)
        ]
    return prediction_answer(model, prediction, request_id, form, schema, explanation=facts[0], **more)


def prediction_answer(
    model: LoadedModel,
    prediction: ImagePrediction,
    request_id: str,
    form: LabelForm,
    schema: type[Schema] = Prediction,  # type: ignore[assignment]
    **more: object,
) -> Schema:
    """Return a prediction as the answer of its route; `more` are the fields that only this schema has."""
    answer = schema(
        **classification_fields(prediction.classification, form),
        **origin_fields(model, prediction.answer, prediction.warnings, request_id),
        timestamp=timestamp(),
        answered_by=prediction.answered_by,
        gradcam_heatmap=heatmap_base64(prediction.explanation),
        explanation_error=prediction.explanation_error,
        **more,
    )
    return with_aliases(answer, model.card.answer.also)
