"""Predictions and explanations of pictures over HTTP: from a request to the core, and from its answer to JSON."""

import base64
import time
from collections.abc import Sequence
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from api.aliases import with_aliases
from api.answers import batch_json, classification_fields, origin_fields
from api.body import read_many, read_one
from api.caller import HttpCaller, timing_headers
from api.parameters import ExplanationQuery, PredictionQuery
from api.problems import problem_of
from api.schemas import (
    BatchAnswer,
    BatchError,
    BatchPrediction,
    ExplainedPrediction,
    ExplanationFacts,
    Prediction,
    timestamp,
)
from errors import DeadlineExceeded, QueueFull, Unavailable
from models.answer import LabelForm
from models.card import ImageCard, as_image_card
from preprocessing.geometry import place
from runners.runner import Answer
from serving.gradcam.wire import Explanation, ExplanationRequest
from serving.loaded_model import LoadedModel
from serving.predictions import ImagePrediction
from serving.predictor import Predictor

Schema = TypeVar("Schema", bound=Prediction)


async def predict(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the prediction of one picture."""
    model.check_ready()  # before the body is read
    card = as_image_card(model.card)
    query = PredictionQuery.read(request.scope["query_string"], card)
    deadline = predictor.deadline(query.timeout_ms)
    upload = await read_one(request)
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    prediction = await predictor.predict_image(model, upload.data, parameters, deadline, caller)
    body: Prediction = prediction_answer(model, prediction, request.state.request_id, query.label_form(card))
    exclude = None if parameters.with_heatmap else {"explanation_error"}
    return _json(body.model_dump_json(exclude=exclude), [prediction.answer])


async def predict_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions of several pictures; one that is wrong fails alone.

    Raises:
        VitrineError: not one picture could be queued, or all are late.
    """
    model.check_ready()  # before the body is read
    started, card = time.monotonic(), as_image_card(model.card)
    query = PredictionQuery.read(request.scope["query_string"], card)
    deadline = predictor.deadline(query.timeout_ms)
    uploads = await read_many(request, card.limits.max_items)
    request_id, form = request.state.request_id, query.label_form(card)
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    payloads = [upload.data for upload in uploads]
    results = await predictor.predict_images(model, payloads, parameters, deadline, caller)
    refusals = [result for result in results if isinstance(result, DeadlineExceeded | QueueFull | Unavailable)]
    if len(refusals) == len(results):
        raise refusals[0]
    rows, answers = list[BatchPrediction | BatchError](), list[Answer[Any]]()
    for upload, result in zip(uploads, results, strict=True):
        if isinstance(result, BaseException):
            rows.append(BatchError(filename=upload.filename, error=problem_of(result, request_id)))
        else:
            rows.append(prediction_answer(model, result, request_id, form, BatchPrediction, filename=upload.filename))
            answers.append(result.answer)
    body = BatchAnswer(
        model=model.name,
        version=model.version or "",
        batch_size=len(rows),
        errors=len(rows) - len(answers),
        inference_time_ms=round((time.monotonic() - started) * 1e3, 3),
        predictions=rows,
    )
    left_out = None if parameters.with_heatmap else {"explanation_error"}
    return _json(batch_json(body, card.answer, left_out), answers)


async def explain(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with a prediction and where the network looked.

    Raises:
        NoExplanation: the model has no explanations, in whatever state it is; the message says why.
        Unavailable: the model is not ready.
    """
    model.check_explainable()
    model.check_ready()  # before the body is read
    card = as_image_card(model.card)
    query = ExplanationQuery.read(request.scope["query_string"], card)
    deadline = predictor.deadline(query.timeout_ms)
    upload = await read_one(request)
    explanation_request = query.request(upload.data, card, card.explain.method if card.explain else "")
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    prediction = await predictor.explain_image(model, explanation_request, parameters, deadline, caller)
    answer: Answer[Explanation] = prediction.answer
    if query.format == "png":
        return Response(answer.value.picture, 200, timing_headers([answer]), "image/png")
    details = explanation_details(card, answer, explanation_request)
    request_id, form = request.state.request_id, query.label_form(card)
    body = prediction_answer(model, prediction, request_id, form, ExplainedPrediction, explanation=details)
    unused = {"input_box"} if details.input_box is None else set[str]()
    return _json(body.model_dump_json(exclude={"explanation_error": True, "explanation": unused}), [answer])


def prediction_answer(
    model: LoadedModel,
    prediction: ImagePrediction,
    request_id: str,
    form: LabelForm,
    schema: type[Schema] = Prediction,  # type: ignore[assignment]
    **more: object,
) -> Schema:
    """Return a prediction as the answer of its route; `more` are the fields that only this schema has."""
    explanation = prediction.explanation
    heatmap = explanation.picture if explanation is not None else None
    answer = schema(
        **classification_fields(prediction.classification, form),
        **origin_fields(model, prediction.answer, prediction.warnings, request_id),
        timestamp=timestamp(),
        answered_by=prediction.answered_by,
        gradcam_heatmap=base64.b64encode(heatmap).decode() if heatmap is not None else None,
        explanation_error=prediction.explanation_error,
        **more,
    )
    return with_aliases(answer, model.card.answer.also)


def explanation_details(card: ImageCard, answer: Answer[Explanation], request: ExplanationRequest) -> ExplanationFacts:
    """Return what was explained and how, and the map itself where that was asked for."""
    explanation, as_map = answer.value, request.output == "map"
    return ExplanationFacts(
        method=request.method,
        target=card.labels[explanation.target],
        target_class_id=explanation.target,
        layer=card.explain.layer if card.explain else "",
        output=request.output,
        alpha=request.alpha if request.output == "overlay" else None,
        size=list(explanation.size),
        input_box=None if request.at_input_size else _input_box(card, explanation.size),
        map=[[float(f"{value:.6g}") for value in row] for row in explanation.map] if as_map else None,
        time_ms=round(answer.decode_ms + answer.infer_ms, 3),
    )


def _input_box(card: ImageCard, size: tuple[int, int]) -> list[float] | None:
    """Return what of a picture of this width and height the network's input is; None where it is the whole picture."""
    placement = place((size[1], size[0]), card.input)
    return None if placement.is_whole else [round(edge, 2) for edge in placement.input_box()]


def _json(body: str, answers: Sequence[Answer[Any]]) -> Response:
    return Response(body, 200, timing_headers(answers), "application/json")
