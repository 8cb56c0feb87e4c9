"""Predictions of rows: read, queue, wait, interpret."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import Request
from starlette.responses import Response

from api.answers import about, classified
from api.body import read_json
from api.parameters import Parameters, read_parameters
from api.problems import problem_of
from api.schemas import AnomalyPrediction, RowBatchAnswer, RowError, RowPrediction, timestamp
from api.waiting import race, timing_of
from errors import InvalidInput
from models.card import RowCard
from postprocessing.interpret import interpret, interpret_anomaly
from preprocessing.rows import Row
from runners.awaiting import awaitable
from runners.runner import Answer
from serving.loaded_model import ServedModel
from serving.pipeline import InferredRows

BATCH = ("samples", "readings")
FEW = 20
"""Rows whose answer is written at once; more are written by a thread."""


async def predict_rows(
    model: ServedModel, card: RowCard, request: Request, timeout_ms: float, *, batch: bool
) -> Response:
    """Answer a request of one row, or of `samples` or `readings`; those are told by their field on either route.

    Raises:
        InvalidInput: the body is not what the card asks for; of a batch, only as a whole: a wrong row is an item's
            error in the answer.
        TooLarge: more bytes than the card allows.
    """
    model.check_ready()
    parameters = read_parameters(request.query_params, card)
    deadline = time.monotonic() + min(parameters.timeout_ms or timeout_ms, timeout_ms) / 1000
    rows, many = _rows_of(await read_json(request, card.limits.max_bytes), card, batch=batch)
    work = awaitable(model.submit_rows(rows, deadline))
    answer: Answer[InferredRows] = await race(work, request, deadline)
    if not many and answer.value.problems:
        raise answer.value.problems[0]
    headers = timing_of([answer])

    def body() -> str:
        said = _said(model, card, rows, answer, parameters, request.state.request_id)
        return said[0].model_dump_json() if not many else _batch(model, answer, said)

    # A thousand rows are some 50 ms of Python, which no other request should wait for.
    text = await asyncio.to_thread(body) if len(rows) > FEW else body()
    return Response(text, 200, headers, "application/json")


def _batch(
    model: ServedModel, answer: Answer[InferredRows], said: list[RowPrediction | AnomalyPrediction | RowError]
) -> str:
    return RowBatchAnswer(
        model=model.name,
        version=model.version or "",
        batch_size=len(said),
        total_samples=len(said),
        errors=len(answer.value.problems),
        inference_time_ms=round(answer.decode_ms + answer.infer_ms, 3),
        predictions=said,
    ).model_dump_json()


def _rows_of(body: Any, card: RowCard, *, batch: bool) -> tuple[Sequence[Row], bool]:
    """The rows of a body, and whether they are a batch."""
    if not isinstance(body, Mapping):
        raise InvalidInput(f"The body must be a JSON object, not {type(body).__name__}. {_how(batch)}")
    names = [name for name in BATCH if name in body]
    if not names:
        if batch:
            raise InvalidInput(f"The body has no rows. {_how(batch)}")
        return [_flat(body)], False
    if len(body) > 1:
        raise InvalidInput(f"Beside `{names[0]}` nothing else is expected, but there is {', '.join(map(repr, body))}.")
    rows = body[names[0]]
    if not isinstance(rows, list) or not rows:
        raise InvalidInput(f"`{names[0]}` must be a list of one row or more.")
    if len(rows) > card.limits.max_items:
        raise InvalidInput(
            f"{len(rows):,} rows were sent; {card.name} takes at most {card.limits.max_items:,} in one request."
        )
    return [_flat(row) for row in rows], True


def _flat(row: Any) -> Any:
    """A row with the values of `features`, if it has such, beside what else it says."""
    if isinstance(row, Mapping) and isinstance(row.get("features"), Mapping):
        return {**{name: value for name, value in row.items() if name != "features"}, **row["features"]}
    return row


def _how(batch: bool) -> str:
    if batch:
        return 'Send {"samples": [{…}, …]} or {"readings": [{…}, …]}, a row each.'
    return 'Send {"features": {…}}, or the named values alone.'


def _said(
    model: ServedModel,
    card: RowCard,
    rows: Sequence[Row],
    answer: Answer[InferredRows],
    parameters: Parameters,
    request_id: str,
) -> list[RowPrediction | AnomalyPrediction | RowError]:
    outputs, said = iter(answer.value.outputs), list[RowPrediction | AnomalyPrediction | RowError]()
    common, now = about(model, answer, card.warnings, request_id), timestamp()
    if parameters.include_gradcam:
        common |= {"gradcam_heatmap": None, "explanation_error": f"There is no explanation: {model.unexplained}."}
    for place, row in enumerate(rows):
        if problem := answer.value.problems.get(place):
            said.append(RowError(error=problem_of(problem, request_id)))
            continue
        identifiers = {each.name: row[each.name] for each in card.input.identifiers}
        if card.task == "anomaly-detection":
            found = interpret_anomaly(next(outputs), card, threshold=parameters.threshold)
            said.append(AnomalyPrediction(**found._asdict(), **common, **identifiers))
        else:
            read = interpret(next(outputs), card, threshold=parameters.threshold, top_k=parameters.top_k)
            said.append(RowPrediction(**classified(read), **common, **{"timestamp": now, **identifiers}))
    return said
