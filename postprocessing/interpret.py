"""logits → what they say: probabilities, the label called, the most probable few."""

from math import exp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.card import Card, ModelCard, RowCard

FEW_LABELS = 20
"""Up to this many labels an answer holds every probability; beyond, only the `top_k`."""


class Ranked(NamedTuple):
    """One of the most probable labels."""

    label: str
    probability: float


class Interpretation(NamedTuple):
    """What one row of logits says; probabilities are in [0, 1], in the order of the card's labels."""

    label: str
    class_id: int
    confidence: float
    probabilities: dict[str, float]
    top: tuple[Ranked, ...]
    threshold: float | None


def softmax(logits: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """Probabilities along the last axis, float64; shifted by the maximum, so that large logits do not overflow."""
    shifted = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=-1, keepdims=True))


def comparable(outputs: npt.NDArray[np.float32], card: Card) -> npt.NDArray[np.float64]:
    """What parity is measured on, (…, K): probabilities; of a detector, the squared errors as they are."""
    if isinstance(card, RowCard) and card.task == "anomaly-detection":
        return outputs.astype(np.float64)
    return softmax(outputs)


def difference(
    outputs: npt.NDArray[np.float32], wanted: npt.NDArray[np.float32], card: Card
) -> npt.NDArray[np.float64]:
    """How far outputs are from what they should be, (…, K): |Δ| in probability; of a detector, in squared error, as a
    share of it where it is above 1. What is not finite is infinitely far.
    """
    got, right = comparable(outputs, card), comparable(wanted, card)
    away = np.abs(got - right) / np.maximum(1.0, np.abs(right))
    return np.where(np.isfinite(away), away, np.inf)


def called(outputs: npt.NDArray[np.float32], card: Card) -> int | bool:
    """What one row of outputs comes to, by the card's threshold: a label's index, or whether it is an anomaly."""
    if isinstance(card, RowCard) and card.task == "anomaly-detection":
        return interpret_anomaly(outputs, card).is_anomaly
    return interpret(outputs, card).class_id


class Anomaly(NamedTuple):
    """What one row of squared errors says.

    anomaly_score: their mean, ≥ 0. confidence: how far the score is from the threshold, in thresholds, at most 1.
    contributions: the squared error of each feature, in the card's order; they add up to score × features.
    """

    is_anomaly: bool
    anomaly_score: float
    threshold: float
    confidence: float
    contributions: dict[str, float]


def interpret_anomaly(errors: npt.NDArray[np.float32], card: RowCard, *, threshold: float | None = None) -> Anomaly:
    """Read one row of squared errors, shape (features,) float32, as the card says; or by another threshold, > 0."""
    limit = (card.threshold or 0.0) if threshold is None else threshold
    score = float(errors.astype(np.float64).mean())
    by_feature = {feature.name: float(error) for feature, error in zip(card.input.features, errors, strict=True)}
    return Anomaly(score > limit, score, limit, min(abs(score - limit) / limit, 1.0), by_feature)


def interpret(
    logits: npt.NDArray[np.float32], card: ModelCard, *, threshold: float | None = None, top_k: int = 1
) -> Interpretation:
    """Read one row of logits as the card says.

    Args:
        logits: shape (K,), float32.
        card: the model's card; K is the number of its labels.
        threshold: instead of the card's, for this answer; means nothing on a card without `positive_label`.
        top_k: how many of the most probable labels to list; more than there are lists all.
    """
    chances = _softmax_of_few(logits) if len(logits) <= FEW_LABELS else softmax(logits).tolist()
    order = sorted(range(len(chances)), key=chances.__getitem__, reverse=True)
    if card.positive_label is None:
        called, threshold = order[0], None
    else:
        positive = card.labels.index(card.positive_label)
        threshold = card.threshold if threshold is None else threshold
        is_positive = threshold is not None and chances[positive] >= threshold
        called = positive if is_positive else next(index for index in order if index != positive)
    top = tuple(Ranked(card.labels[index], chances[index]) for index in order[: max(1, top_k)])
    shown = range(len(chances)) if len(chances) <= FEW_LABELS else sorted(order[: max(1, top_k)])
    probabilities = {card.labels[index]: chances[index] for index in shown}
    return Interpretation(card.labels[called], called, chances[called], probabilities, top, threshold)


def _softmax_of_few(logits: npt.NDArray[np.float32]) -> list[float]:
    """`softmax` of one row, within rounding, in plain Python: for ten labels NumPy's calls take three times as long."""
    row = logits.tolist()
    highest = max(row)
    shifted = [exp(logit - highest) for logit in row]
    total = sum(shifted)
    return [each / total for each in shifted]
