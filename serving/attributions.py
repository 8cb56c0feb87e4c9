"""Explaining rows: the rows that Shapley values need go through the model's own Runner, a bounded chunk at a time."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
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
from postprocessing.classification import card_probabilities, tempered
from runners.awaiting import awaitable
from serving.loaded_model import LoadedModel
from serving.row_pipeline import MixedRows, RowOutputs

MOST_EXPLAINED_ROWS = 64
"""The most rows of one request that are explained; each costs as much as thousands of predictions."""
CHUNK_VALUES, CHUNK_ROWS, CHUNK_MS = 2**18, 1000, 20.0
"""The most values of mixed rows, a megabyte, and the rows that a lane is given at first; then as many as it computes in
that many milliseconds, so that predictions get their turn."""
MOST_EVALUATIONS = 10_000_000
"""The most rows that the network computes for the explanations of one request; more would hardly be done in time."""
Targets = Sequence[int] | Sequence[None]
"""The indices of labels or values; of a detector a single None, which stands for its score."""
SCORE = "anomaly_score"
"""What is explained of a detector's answer."""


@dataclass(frozen=True)
class RowExplanationRequest:
    """How rows are to be explained.

    Attributes:
        targets: the indices of the labels, or of a regressor's values, to explain, each by itself; empty for the label
            that is answered, for a regressor's first value, and for a detector, of which only the score is explained.
        top: how many of a classifier's most probable labels to explain instead; 0 to explain `targets`.
        contrast: the index of a label that the targets are set against; None for none.
        method: None for exact values of up to `MOST_EXACT_FEATURES` features, and sampled ones of more.
        samples: how many orders of the features are drawn, where values are sampled; None for `DEFAULT_SAMPLES`.
    """

    targets: tuple[int, ...] = ()
    top: int = 0
    contrast: int | None = None
    method: RowMethodName | None = None
    samples: int | None = None

    def shapley(self, card: RowCard) -> ShapleyMethod:
        """Return the method for a model.

        Raises:
            InvalidInput: exact values were asked for of too many features, or together with samples.
        """
        features, offered = len(card.input.features), row_methods(card)
        if (self.method or offered[0]) == "shapley-sampled":
            return SampledShapley(features, self.samples or DEFAULT_SAMPLES)
        if "shapley" not in offered:
            raise InvalidInput(
                f"method='shapley': {card.name} has {features} features, and exact values are computed of up to "
                f"{MOST_EXACT_FEATURES}; ask for method=shapley-sampled."
            )
        if self.samples is not None:
            raise InvalidInput("samples: exact values draw none; it goes with method=shapley-sampled.")
        return ExactShapley(features)


class RowExplanation(NamedTuple):
    """Why one row was answered as it was.

    Attributes:
        method: what computed the attributions.
        target: what is explained: a label, whose probability it is, a regressor's value, or a detector's `SCORE`.
        target_id: the index of the label or value; None of a detector.
        contrast: the label that the target is set against, so that the natural logarithm of the ratio of their
            probabilities is explained; None for none.
        attributions: of each feature, in the order of the card.
        background: the rows that this one was compared with.
        evaluations: how many rows the network computed for it, and for the other targets of the same row.
        time_ms: how long that took, without the prediction.
    """

    method: RowMethodName
    target: str
    target_id: int | None
    contrast: str | None
    attributions: Attributions
    background: Background
    evaluations: int
    time_ms: float


async def explain_rows(
    model: LoadedModel,
    predicted: RowOutputs,
    targets: Sequence[Targets],
    request: RowExplanationRequest,
    deadline: float,
) -> list[Sequence[RowExplanation]]:
    """Explain rows that were predicted, one after the other; all targets of a row share what the network computes.

    One chunk of all requests waits in the model's queue at a time, whose lanes predict in between.

    Args:
        model: the model that predicted them, whose rows are explainable.
        predicted: what the network gave for the rows.
        targets: what to explain of each row.
        request: how to explain them.
        deadline: a value of `time.monotonic()`.

    Returns:
        For each row the explanations of its targets, in their order; none for a row whose target is the contrast
        itself.

    Raises:
        InvalidInput: there are more than `MOST_EXPLAINED_ROWS`, they need more than `MOST_EVALUATIONS`, or the method
            does not go with the model.
        VitrineError: the Runner's own, as of `LoadedModel.submit`.
    """
    card, background = as_row_card(model.card), model.background
    if background is None:
        raise NoExplanation(f"{model.name} has no background to compare a row with.")
    if len(predicted.inputs) > MOST_EXPLAINED_ROWS:
        raise too_many_rows(len(predicted.inputs))
    method, names, contrast = request.shapley(card), target_names(card), request.contrast
    evaluations = method.count * len(background.rows)
    check_evaluations(len(predicted.inputs), evaluations)
    contrast_name = None if contrast is None else names[contrast]
    explanations = list[Sequence[RowExplanation]]()
    for row, outputs, of_row in zip(predicted.inputs, predicted.outputs, targets, strict=True):
        if contrast is not None and contrast in of_row:
            explanations.append([])
            continue
        started = time.monotonic()
        score = partial(explained_outputs, card=card, targets=of_row, contrast=contrast)
        worths = await _worths(model, row, background.rows, method, score, deadline)
        attributions = [method.solve(*parts) for parts in zip(worths.T, score(outputs[None])[0].tolist(), strict=True)]
        took_ms = (time.monotonic() - started) * 1e3
        explanations.append(
            [
                RowExplanation(
                    method.name, names[target or 0], target, contrast_name, solved, background, evaluations, took_ms
                )
                for target, solved in zip(of_row, attributions, strict=True)
            ]
        )
    return explanations


def row_methods(card: RowCard) -> tuple[RowMethodName, ...]:
    """Return the methods that explain a model's rows, the default first."""
    is_exact = len(card.input.features) <= MOST_EXACT_FEATURES
    return ("shapley", "shapley-sampled") if is_exact else ("shapley-sampled",)


def too_many_rows(count: int) -> InvalidInput:
    """Return the error of a request that asks for the explanation of too many rows."""
    return InvalidInput(f"At most {MOST_EXPLAINED_ROWS} rows of one request are explained, not {count:,}. Send fewer.")


def check_evaluations(rows: int, of_each: int) -> None:
    """Return if the explanations of so many rows can be computed in one request.

    Args:
        rows: how many rows are explained.
        of_each: how many rows the network computes for each.

    Raises:
        InvalidInput: they are too many.
    """
    if rows * of_each > MOST_EVALUATIONS:
        fitting = MOST_EVALUATIONS // of_each
        advice = f"explain at most {fitting:,} rows at once" if fitting else "ask for fewer samples"
        raise InvalidInput(
            f"These explanations need {rows * of_each:,} evaluations of the model, and one request gets "
            f"{MOST_EVALUATIONS:,}: {advice}."
        )


def is_own_contrast(label: str) -> InvalidInput:
    """Return the error of a request that sets a label against itself."""
    return InvalidInput(f"contrast={label!r}: that is the label that is explained. Name another, or another target.")


def target_names(card: ModelCard) -> tuple[str, ...]:
    """Return what may be explained of a model's answer: its labels, a regressor's values, or a detector's score."""
    if is_detector(card):
        return (SCORE,)
    return tuple(output.name for output in card.outputs) if is_regressor(card) else card.labels


def explained_outputs(
    outputs: Logits, card: ModelCard, targets: Targets, contrast: int | None = None
) -> npt.NDArray[np.float64]:
    """Return the numbers in each answer that are explained, shape (n, targets), float64.

    Args:
        outputs: what the network gives, shape (n, K), float32.
        card: the model's card.
        targets: what is explained.
        contrast: the index of the label that the targets are set against: the natural logarithm of the ratio of both
            probabilities is explained then. None for none.
    """
    if is_detector(card):
        return np.asarray(outputs.astype(np.float64).mean(axis=1, keepdims=True))
    chosen = np.array(targets, np.int64)
    if is_regressor(card):
        return outputs[:, chosen].astype(np.float64)
    if contrast is not None:
        logits = tempered(outputs, card).astype(np.float64)
        return np.asarray(logits[:, chosen] - logits[:, [contrast]])
    return card_probabilities(outputs, card)[:, chosen]


def chunk_coalitions(background: Float32Array) -> int:
    """Return how many coalitions a lane is given at once, at most, over a background of shape (B, features)."""
    return max(1, CHUNK_VALUES // background.size)


async def _worths(
    model: LoadedModel,
    row: Float32Array,
    background: Float32Array,
    method: ShapleyMethod,
    score: Callable[[Logits], npt.NDArray[np.float64]],
    deadline: float,
) -> npt.NDArray[np.float64]:
    """Return the worth of each coalition for each target, shape (C, targets): the mean score over the background."""
    most = chunk_coalitions(background)
    size, start = min(most, max(1, CHUNK_ROWS // len(background))), 0
    worths = list[npt.NDArray[np.float64]]()

    def mean_of(outputs: Logits) -> npt.NDArray[np.float64]:
        scores = score(outputs)
        return np.asarray(scores.reshape(-1, len(background), scores.shape[1]).mean(axis=1))

    while start < method.count:
        payload = MixedRows(row, background, method.coalitions(start, start + size))
        async with model.explained_one_by_one:
            answer = await awaitable(model.submit(payload, deadline, is_admitted=True))
        worths.append(await asyncio.to_thread(mean_of, answer.value.outputs))
        start += size
        size = max(1, min(most, 4 * size, int(size * CHUNK_MS / max(answer.infer_ms, 1e-3))))
    return np.concatenate(worths)
