"""Predictions of rows together with why each was answered so."""

import time

from errors import InvalidInput, VitrineError
from models.card import as_row_card
from runners.awaiting import awaitable
from serving.attributions import RowExplanationRequest, explain_rows, row_methods
from serving.loaded_model import LoadedModel
from serving.predictions import PredictionParameters, RowPredictions, explained_targets, row_predictions
from serving.row_pipeline import RowPayload
from serving.waiting import wait_for

EXPLAINED_SHARE = 0.5
"""The share of the time left after predicting rows that their explanations may take."""
MOST_EVALUATIONS_ASIDE = 1_000_000
"""The most rows that the network computes for explanations that come along with predictions."""


async def predict_with_reasons(
    model: LoadedModel, rows: RowPayload, parameters: PredictionParameters, deadline: float
) -> RowPredictions:
    """Predict rows and explain them by the model's default; where there are no explanations, say why there are none.

    Raises:
        VitrineError: as `Predictor.predict_rows`.
    """
    predictions = row_predictions(model, await awaitable(model.submit(rows, deadline)), parameters)
    now = time.monotonic()
    try:
        model.check_explainable()
        _check_aside(model, predictions)
        # What was predicted is answered in time, whatever becomes of the explanation.
        explained_by = now + EXPLAINED_SHARE * (deadline - now)
        return await wait_for(_with_reasons(model, predictions, RowExplanationRequest(), explained_by), explained_by)
    except VitrineError as error:
        return predictions._replace(explanation_error=str(error))


async def explain_with_reasons(
    model: LoadedModel,
    rows: RowPayload,
    request: RowExplanationRequest,
    parameters: PredictionParameters,
    deadline: float,
    *,
    all_or_none: bool = False,
) -> RowPredictions:
    """Predict rows and explain them as the request says; with `all_or_none` not one if a row is wrong.

    Raises:
        VitrineError: as `Predictor.explain_rows`.
    """
    predictions = row_predictions(model, await awaitable(model.submit(rows, deadline)), parameters)
    if all_or_none and predictions.problems:
        return predictions
    return await _with_reasons(model, predictions, request, deadline)


def _check_aside(model: LoadedModel, predictions: RowPredictions) -> None:
    """Return if explanations may come along with predictions.

    Raises:
        InvalidInput: they would hold the predictions back for long.
    """
    method, background = RowExplanationRequest().shapley(as_row_card(model.card)), model.background
    count = len(predictions.outputs) * method.count * (len(background.rows) if background else 0)
    if count > MOST_EVALUATIONS_ASIDE:
        raise InvalidInput(
            f"There is no explanation: it takes {count:,} evaluations of the model, more than the "
            f"{MOST_EVALUATIONS_ASIDE:,} that come along with predictions. Ask /explain for it."
        )


async def _with_reasons(
    model: LoadedModel, predictions: RowPredictions, request: RowExplanationRequest, deadline: float
) -> RowPredictions:
    started, targets = time.monotonic(), explained_targets(predictions.results, request)
    explanations = await explain_rows(model, predictions.answer.value, targets, request, deadline)
    model.meters.explained(request.method or row_methods(as_row_card(model.card))[0], started)
    return predictions._replace(explanations=explanations)
