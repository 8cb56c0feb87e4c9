"""From a row of squared errors to whether a detector reports an anomaly."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from models.card import RowCard


class Anomaly(NamedTuple):
    """What one row of squared errors means.

    Attributes:
        is_anomaly: whether the score is above the threshold.
        anomaly_score: the mean of the squared errors, 0 or more.
        threshold: the score above which a row is an anomaly.
        confidence: how far the score is from the threshold, in thresholds, at most 1.
        contributions: the squared error of each feature, in the card's order; they add up to score × features.
    """

    is_anomaly: bool
    anomaly_score: float
    threshold: float
    confidence: float
    contributions: dict[str, float]


def detect(errors: npt.NDArray[np.float32], card: RowCard, *, threshold: float | None = None) -> Anomaly:
    """Judge one row of squared errors, shape (features,) float32, by the card's threshold or by another one above 0."""
    limit = (card.threshold or 0.0) if threshold is None else threshold
    score = float(errors.astype(np.float64).mean())
    by_feature = {feature.name: float(error) for feature, error in zip(card.input.features, errors, strict=True)}
    return Anomaly(score > limit, score, limit, min(abs(score - limit) / limit, 1.0), by_feature)
