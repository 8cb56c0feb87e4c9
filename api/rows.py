"""Predictions of rows over HTTP: from a request to the core, and from its answer to JSON."""

import asyncio
import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from api.answers import origin_fields
from api.body import SHORT, json_job, parse_json, read_json, read_json_text
from api.caller import HttpCaller, TimedJson, timing_headers
from api.grants import charge_items, check_scope
from api.parameters import prediction_query
from api.problems import problem_of
from api.row_answers import row_answers, row_batch_json
from api.row_explanations import explanation_facts, explanation_png, row_explanation_query
from api.schemas import RowBatchAnswer, RowError, timestamp
from errors import InvalidInput
from models.answer import LabelForm
from models.card import RowCard, as_row_card, is_detector
from preprocessing.rows import Row, check_rows
from serving.attributions import MOST_EXPLAINED_ROWS, RowExplanation, is_own_contrast, too_many_rows
from serving.loaded_model import LoadedModel
from serving.predictions import RowPredictions
from serving.predictor import Predictor
from serving.row_pipeline import RowPayload

BATCH_FIELDS = ("samples", "readings")


class AskedRows(NamedTuple):
    """The rows of a request, and whether they came as several."""

    rows: Sequence[Row]
    are_many: bool


async def predict(predictor: Predictor, model: LoadedModel, request: Request, *, batch: bool = False) -> Response:
    """Answer with the prediction of one row, or of all rows in `samples` or `readings`.

    A body with `samples` or `readings` is a list of rows on either route; with `batch` it has to be one.

    Raises:
        InvalidInput: the body is not what the card asks for; a wrong row of several is only an error in the answer.
        TooLarge: the body has more bytes than the card allows.
    """
    model.check_room(for_lanes=batch)  # before the body is read
    card = as_row_card(model.card)
    query = prediction_query(card).read(request.scope["query_string"], card)
    deadline = predictor.deadline(query.timeout_ms)
    data = await read_json_text(request, model.large_json, card.limits.max_bytes)
    parameters = query.parameters(card, predictor.top_k)
    if parameters.with_heatmap:
        check_scope(model.name, "explain")

    def read() -> tuple[AskedRows, RowPayload]:
        asked = asked_rows(parse_json(data), card, batch=batch)
        return asked, asked.rows if job is SHORT else check_rows(asked.rows, card.input)

    with json_job(model.large_json, data) as job:
        asked, payload = await job.run(read)
        await charge_items(len(asked.rows))
        predictions = await predictor.predict_rows(model, payload, parameters, deadline, HttpCaller(request))
        told = model, asked, predictions, request.state.request_id, query.label_form(card)
        return await job.run(partial(answered, *told))


def answered(
    model: LoadedModel, asked: AskedRows, predictions: RowPredictions, request_id: str, form: LabelForm
) -> TimedJson:
    """Return the answer to the request for the prediction of rows.

    Raises:
        InvalidInput: the only row is wrong.
    """
    rows, are_many = asked
    if not are_many and predictions.problems:
        raise predictions.problems[0]
    answers = _answers(model, as_row_card(model.card), rows, predictions, request_id, form)
    text = _batch_json(model, predictions, answers) if are_many else answers[0]
    return TimedJson(text, [predictions.answer])


async def explain(predictor: Predictor, model: LoadedModel, request: Request, *, batch: bool = False) -> Response:
    """Answer with the prediction of one row, or of several in `samples` or `readings`, and why each was answered so.

    With `batch` the body has to be a list of rows.

    Raises:
        NoExplanation: the model has no explanations, in whatever state it is; the message says why.
        InvalidInput: the body is not what the card asks for, or there are too many rows, or several for one picture.
        Unavailable: the model is not ready.
    """
    model.check_explainable()
    model.check_room()  # before the body is read
    card = as_row_card(model.card)
    query = row_explanation_query(card).read(request.scope["query_string"], card)
    explanation_request = query.request(card)
    deadline = predictor.deadline(query.timeout_ms)
    if query.format == "png" and max(len(explanation_request.targets), explanation_request.top) > 1:
        raise InvalidInput("format='png': a picture is of one target. Ask for one, or for format=json.")
    body = await read_json(request, model.large_json, card.limits.max_bytes)
    rows, are_many = asked_rows(body, card, batch=batch)
    if are_many and query.format == "png":
        raise InvalidInput("format='png': a picture is of one row. Send one to /explain, or ask for format=json.")
    if len(rows) > MOST_EXPLAINED_ROWS:
        raise too_many_rows(len(rows))
    await charge_items(len(rows))
    parameters, caller = query.parameters(card, predictor.top_k), HttpCaller(request)
    predictions = await predictor.explain_rows(model, rows, explanation_request, parameters, deadline, caller)
    if not are_many and predictions.problems:
        raise predictions.problems[0]
    headers = timing_headers([predictions.answer])
    if not are_many and not predictions.explanations[0]:
        raise is_own_contrast(card.labels[explanation_request.contrast or 0])
    if query.format == "png":
        picture = await asyncio.to_thread(explanation_png, predictions.explanations[0][0], rows[0], card)
        return Response(picture, 200, headers, "image/png")
    answers = _answers(model, card, rows, predictions, request.state.request_id, query.label_form(card))
    text = _batch_json(model, predictions, answers) if are_many else answers[0]
    return Response(text, 200, headers, "application/json")


async def explain_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions of several rows and why each was answered so; one that is wrong fails alone."""
    return await explain(predictor, model, request, batch=True)


async def predict_batch(predictor: Predictor, model: LoadedModel, request: Request) -> Response:
    """Answer with the predictions of several rows; one that is wrong fails alone."""
    return await predict(predictor, model, request, batch=True)


def asked_rows(body: Any, card: RowCard, *, batch: bool) -> AskedRows:
    """Return the rows of a body that was parsed.

    Raises:
        InvalidInput: it is none of the objects that the card asks for, or has too many rows.
    """
    if not isinstance(body, Mapping):
        raise InvalidInput(f"The body must be a JSON object, not {type(body).__name__}. {_advice(batch)}")
    names = [name for name in BATCH_FIELDS if name in body]
    is_whole = all(entry.name in body for entry in card.input.entries)
    is_row = is_whole and not batch and card.input.unknown_fields == "ignore"
    if not names or is_row:  # of a whole row, further fields with these names are ignored as others are
        if batch:
            raise InvalidInput(f"The body has no rows. {_advice(batch)}")
        return AskedRows([flat_row(body)], False)
    if len(body) > 1 and card.input.unknown_fields == "refuse":
        raise InvalidInput(f"Beside `{names[0]}` nothing else is expected, but there is {', '.join(map(repr, body))}.")
    rows = body[names[0]]
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(f"`{names[0]}` must be a list of one row or more.")
    if len(rows) > card.limits.max_items:
        raise InvalidInput(
            f"{len(rows):,} rows were sent; {card.name} takes at most {card.limits.max_items:,} in one request."
        )
    return AskedRows([flat_row(row) for row in rows], True)


def flat_row(row: Any) -> Any:
    """Return a row whose values may stand in `features`, beside whatever else it has, as one flat object."""
    if isinstance(row, dict) and isinstance(row.get("features"), dict):
        return {**{name: value for name, value in row.items() if name != "features"}, **row["features"]}
    return row


def _advice(batch: bool) -> str:
    if batch:
        return 'Send {"samples": [{…}, …]} or {"readings": [{…}, …]}, a row each.'
    return 'Send {"features": {…}}, or the named values alone.'


def _answers(
    model: LoadedModel,
    card: RowCard,
    rows: Sequence[Row],
    predictions: RowPredictions,
    request_id: str,
    form: LabelForm,
) -> list[str]:
    """Return the JSON of every row's answer, in the order in which they were sent."""
    common = origin_fields(model, predictions.answer, predictions.warnings, request_id)
    explanations = _explanation_columns(predictions.explanations, card)
    if predictions.explanation_error:
        common |= {"explanation": None, "explanation_error": predictions.explanation_error}
    if not is_detector(card):
        common["timestamp"] = timestamp()
    problems = predictions.problems
    if not problems:
        return row_answers(predictions.results, rows, card, common, form, explanations)
    right = [row for place, row in enumerate(rows) if place not in problems]
    answers = iter(row_answers(predictions.results, right, card, common, form, explanations))
    return [
        RowError(error=problem_of(problems[place], request_id)).model_dump_json()
        if place in problems
        else next(answers)
        for place in range(len(rows))
    ]


def _batch_json(model: LoadedModel, predictions: RowPredictions, answers: Sequence[str]) -> str:
    empty = RowBatchAnswer(
        model=model.name,
        version=model.version or "",
        batch_size=len(answers),
        total_samples=len(answers),
        errors=len(predictions.problems),
        inference_time_ms=round(predictions.answer.decode_ms + predictions.answer.infer_ms, 3),
        predictions=[],
    )
    return row_batch_json(empty, answers, model.card.answer)


def _explanation_columns(explanations: Sequence[Sequence[RowExplanation]], card: RowCard) -> dict[str, list[str]]:
    """Return the fields of explanations, by name the JSON for each row; none where nobody asked for explanations."""
    if not explanations:
        return {}
    facts = [[explanation_facts(explanation, card) for explanation in of_row] for of_row in explanations]
    columns: dict[str, list[Any]] = {"explanation": [of_row[0] if of_row else None for of_row in facts]}
    if any(len(of_row) > 1 for of_row in facts):
        columns["explanations"] = facts
    if not all(facts):
        own = "There is no explanation: the label that is answered is the contrast itself."
        columns["explanation_error"] = [None if of_row else own for of_row in facts]
    return {name: [json.dumps(value, ensure_ascii=False) for value in values] for name, values in columns.items()}
