"""Explaining rows: the rows that Shapley values need go through the model's own Runner, a bounded chunk at a time."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from errors import InvalidInput, NoExplanation
from explain.base import Float32Array
from explain.shapley import (
    DEFAULT_SAMPLES,
    MOST_EXACT_FEATURES,
    Attributions,
    ExactShapley,
    RowMethodName,
    SampledShapley,
    ShapleyMethod,
)
from models.background import Background
from models.card import ModelCard, RowCard, as_row_card, is_detector, is_regressor
from postprocessing.classification import card_probabilities
from runners.awaiting import awaitable
from serving.loaded_model import LoadedModel
from serving.pipeline import MixedRows, RowOutputs

MOST_EXPLAINED_ROWS = 64
"""The most rows of one request that are explained; each costs as much as thousands of predictions."""
CHUNK_VALUES = 2**18
"""The most values of mixed rows, a megabyte, that a lane is given at once, so that predictions get their turn."""
SCORE = "anomaly_score"
"""What is explained of a detector's answer."""


@dataclass(frozen=True)
class RowExplanationRequest:
    """How rows are to be explained.

    Attributes:
        target: the index of the label, or of a regressor's value, to explain; None for the label that is answered, for
            a regressor's first value, and for a detector, of which only the score is explained.
        method: None for exact values of up to `MOST_EXACT_FEATURES` features, and sampled ones of more.
        samples: how many orders of the features are drawn, where values are sampled.
    """

    target: int | None = None
    method: RowMethodName | None = None
    samples: int = DEFAULT_SAMPLES

    def shapley(self, card: RowCard) -> ShapleyMethod:
        """Return the method for a model.

        Raises:
            InvalidInput: exact values were asked for of too many features.
        """
        features, offered = len(card.input.features), row_methods(card)
        if (self.method or offered[0]) == "shapley-sampled":
            return SampledShapley(features, self.samples)
        if "shapley" not in offered:
            raise InvalidInput(
                f"method='shapley': {card.name} has {features} features, and exact values are computed of up to "
                f"{MOST_EXACT_FEATURES}; ask for method=shapley-sampled."
            )
        return ExactShapley(features)


class RowExplanation(NamedTuple):
    """Why one row was answered as it was.

    Attributes:
        method: what computed the attributions.
        target: what is explained: a label, whose probability it is, a regressor's value, or a detector's `SCORE`.
        target_id: the index of the label or value; None of a detector.
        attributions: of each feature, in the order of the card.
        background: the rows that this one was compared with.
        time_ms: how long the explanation took, without the prediction.
    """

    method: RowMethodName
    target: str
    target_id: int | None
    attributions: Attributions
    background: Background
    time_ms: float


async def explain_rows(
    model: LoadedModel,
    predicted: RowOutputs,
    targets: Sequence[int | None],
    request: RowExplanationRequest,
    deadline: float,
) -> list[RowExplanation]:
    """Explain rows that were predicted, one after the other.

    One chunk waits in the model's queue at a time, whose lanes predict in between.

    Args:
        model: the model that predicted them, whose rows are explainable.
        predicted: what the network gave for the rows.
        targets: the index of the label or value to explain of each row; None for a detector's score.
        request: how to explain them.
        deadline: a value of `time.monotonic()`.

    Raises:
        InvalidInput: there are more than `MOST_EXPLAINED_ROWS`, or the method does not go with the model.
        VitrineError: the Runner's own, as of `LoadedModel.submit`.
    """
    card, background = as_row_card(model.card), model.background
    if background is None:
        raise NoExplanation(f"{model.name} has no background to compare a row with.")
    if len(predicted.inputs) > MOST_EXPLAINED_ROWS:
        raise too_many_rows(len(predicted.inputs))
    method = request.shapley(card)
    explanations = list[RowExplanation]()
    for row, outputs, target in zip(predicted.inputs, predicted.outputs, targets, strict=True):
        started = time.monotonic()
        worths = await _worths(model, row, background.rows, method, target, deadline)
        value = float(explained_outputs(outputs[None], card, target)[0])
        attributions = method.solve(worths, value)
        name = target_names(card)[target or 0]
        took_ms = (time.monotonic() - started) * 1e3
        explanations.append(RowExplanation(method.name, name, target, attributions, background, took_ms))
    return explanations


def row_methods(card: RowCard) -> tuple[RowMethodName, ...]:
    """Return the methods that explain a model's rows, the default first."""
    is_exact = len(card.input.features) <= MOST_EXACT_FEATURES
    return ("shapley", "shapley-sampled") if is_exact else ("shapley-sampled",)


def too_many_rows(count: int) -> InvalidInput:
    """Return the error of a request that asks for the explanation of too many rows."""
    return InvalidInput(f"At most {MOST_EXPLAINED_ROWS} rows of one request are explained, not {count:,}. Send fewer.")


def target_names(card: ModelCard) -> tuple[str, ...]:
    """Return what may be explained of a model's answer: its labels, a regressor's values, or a detector's score."""
    if is_detector(card):
        return (SCORE,)
    return tuple(output.name for output in card.outputs) if is_regressor(card) else card.labels


def explained_outputs(outputs: Logits, card: RowCard, target: int | None) -> npt.NDArray[np.float64]:
    """Return the number in each answer that is explained, shape (n,), float64.

    Args:
        outputs: what the network gives, shape (n, K), float32.
        card: the model's card.
        target: the index of the label or value; None of a detector, whose score it is.
    """
    if target is None:
        return np.asarray(outputs.astype(np.float64).mean(axis=1))
    if is_regressor(card):
        return outputs[:, target].astype(np.float64)
    return card_probabilities(outputs, card)[:, target]


async def _worths(
    model: LoadedModel,
    row: Float32Array,
    background: Float32Array,
    method: ShapleyMethod,
    target: int | None,
    deadline: float,
) -> npt.NDArray[np.float64]:
    """Return the worth of each coalition: the mean, over the background, of what is explained."""
    card, coalitions = as_row_card(model.card), method.coalitions
    size = max(1, CHUNK_VALUES // background.size)
    worths = list[npt.NDArray[np.float64]]()

    def mean_of(outputs: Logits) -> npt.NDArray[np.float64]:
        return np.asarray(explained_outputs(outputs, card, target).reshape(-1, len(background)).mean(axis=1))

    for start in range(0, len(coalitions), size):
        payload = MixedRows(row, background, coalitions[start : start + size])
        answer = await awaitable(model.submit(payload, deadline))
        worths.append(await asyncio.to_thread(mean_of, answer.value.outputs))
    return np.concatenate(worths)
