"""From a row of logits to the label that a classifier gives, with probabilities."""

from math import exp
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from models.card import ModelCard

MOST_LISTED_LABELS = 20
"""Up to this many labels an answer holds every probability; beyond, only the `top_k` most probable."""


class RankedLabel(NamedTuple):
    """One of the most probable labels."""

    label: str
    probability: float


class Classification(NamedTuple):
    """What one row of logits means; probabilities are in [0, 1], in the order of the card's labels."""

    label: str
    class_id: int
    confidence: float
    probabilities: dict[str, float]
    top: tuple[RankedLabel, ...]
    threshold: float | None


class Classifications(NamedTuple):
    """What several rows of logits mean, as `Classification` of each of them.

    Attributes:
        class_ids: shape (N,), int64.
        probabilities: shape (N, K), float64, in [0, 1], in the order of the card's labels.
        most_probable: shape (N, top_k), int64, the most probable label first.
        threshold: what decided, None without a `positive_label`.
    """

    class_ids: npt.NDArray[np.int64]
    probabilities: npt.NDArray[np.float64]
    most_probable: npt.NDArray[np.int64]
    threshold: float | None


def classify(logits: Logits, card: ModelCard, *, threshold: float | None = None, top_k: int = 1) -> Classification:
    """Classify by one row of logits, as the card says.

    Args:
        logits: shape (K,), float32.
        card: the model's card; K is the number of its labels.
        threshold: used instead of the card's; it has no effect on a card without `positive_label`.
        top_k: how many of the most probable labels to list; at most all of them are.
    """
    few = len(logits) <= MOST_LISTED_LABELS
    probabilities = _softmax_of_few(tempered(logits, card)) if few else card_probabilities(logits, card).tolist()
    order = sorted(range(len(probabilities)), key=probabilities.__getitem__, reverse=True)
    if card.positive_label is None:
        class_id, threshold = order[0], None
    else:
        positive = card.labels.index(card.positive_label)
        threshold = card.threshold if threshold is None else threshold
        is_positive = threshold is not None and probabilities[positive] >= threshold
        class_id = positive if is_positive else next(index for index in order if index != positive)
    best = order[: max(1, top_k)]
    labels = card.labels
    return Classification(
        labels[class_id],
        class_id,
        probabilities[class_id],
        dict(zip(labels, probabilities, strict=True)) if few else {labels[i]: probabilities[i] for i in sorted(best)},
        tuple([RankedLabel(labels[index], probabilities[index]) for index in best]),
        threshold,
    )


def card_probabilities(logits: Logits, card: ModelCard) -> npt.NDArray[np.float64]:
    """Return the probabilities that a card makes of logits (…, K) float32, shape (…, K), float64."""
    return softmax(tempered(logits, card))


def tempered(logits: Logits, card: ModelCard) -> Logits:
    """Return logits divided by the card's temperature (Guo et al. 2017), or as they are where it has none."""
    return logits if card.temperature is None else np.asarray(logits / np.float32(card.temperature), np.float32)


def classify_rows(
    logits: Logits, card: ModelCard, *, threshold: float | None = None, top_k: int = 1
) -> Classifications:
    """Classify by rows of logits, shape (N, K) float32, each as `classify` does."""
    probabilities = card_probabilities(logits, card)
    order = (-probabilities).argsort(axis=1, kind="stable")
    class_ids = order[:, 0]
    if card.positive_label is None:
        threshold = None
    else:
        positive = card.labels.index(card.positive_label)
        threshold = card.threshold if threshold is None else threshold
        others = np.where(class_ids == positive, order[:, 1], class_ids)
        class_ids = np.where(probabilities[:, positive] >= (threshold or 0.0), positive, others)
    return Classifications(class_ids, probabilities, order[:, : max(1, top_k)], threshold)


def softmax(logits: Logits) -> npt.NDArray[np.float64]:
    """Return probabilities along the last axis, float64; shifted by the maximum against overflow."""
    shifted = np.exp(logits.astype(np.float64) - np.maximum.reduce(logits, -1, keepdims=True))
    return np.asarray(shifted / np.add.reduce(shifted, -1, keepdims=True))


def _softmax_of_few(logits: Logits) -> list[float]:
    """Return the `softmax` of one row in plain Python, which takes a third of NumPy's time for ten labels."""
    row = logits.tolist()
    highest = max(row)
    shifted = [exp(logit - highest) for logit in row]
    total = sum(shifted)
    return [value / total for value in shifted]
