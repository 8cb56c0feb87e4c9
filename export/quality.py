"""How good a model is on labelled items: AUC, and both rates at the card's threshold."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backends.base import Logits
from export.labelled_data import Labels
from models.card import Card, is_detector
from postprocessing.classification import card_probabilities
from postprocessing.comparison import decision

Scores = npt.NDArray[np.float64]


class Quality(NamedTuple):
    """How good a model is on labelled items.

    Attributes:
        auc: area under the ROC curve, in [0, 1].
        false_positive_rate: share of the negative items that get the positive label, at the card's threshold.
        sensitivity: share of the positive items that get the positive label, at the card's threshold.
    """

    auc: float
    false_positive_rate: float
    sensitivity: float


def measure_quality(card: Card, positive: str, outputs: Logits, labels: Labels) -> Quality:
    """Measure how good outputs are.

    Args:
        card: says what the outputs come to.
        positive: the label of the positive items.
        outputs: (N, K) float32.
        labels: (N,) int64, 1 for the positive items.
    """
    positive_index = card.labels.index(positive)
    is_positive = np.array([decision(row, card) == positive_index for row in outputs])  # a detector's True equals 1
    false_positive_rate, sensitivity = (float(is_positive[labels == label].mean()) for label in (0, 1))
    return Quality(auc(labels, positive_scores(outputs, card, positive)), false_positive_rate, sensitivity)


def positive_scores(outputs: Logits, card: Card, positive: str) -> Scores:
    """Return the probability of the positive label, (N,); of a detector, the mean squared error."""
    if is_detector(card):
        return np.asarray(outputs.astype(np.float64).mean(axis=1))
    return np.asarray(card_probabilities(outputs, card)[:, card.labels.index(positive)])


def auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve, in [0, 1], by ranks (Hanley & McNeil 1982); NaN if a class is missing."""
    positives = int(labels.sum())
    negatives = len(labels) - positives
    if not positives or not negatives:
        return float("nan")
    _, position, count = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(count) - (count - 1) / 2)[position]  # equal scores share the mean of their ranks
    return float((ranks[labels == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))
