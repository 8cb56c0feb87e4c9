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


class Anomalies(NamedTuple):
    """What several rows of squared errors mean, as `Anomaly` of each of them.

    Attributes:
        are_anomalies: shape (N,), bool.
        scores: shape (N,), float64.
        threshold: the score above which a row is an anomaly.
        confidences: shape (N,), float64.
        contributions: shape (N, features), float32, the squared errors.
    """

    are_anomalies: npt.NDArray[np.bool_]
    scores: npt.NDArray[np.float64]
    threshold: float
    confidences: npt.NDArray[np.float64]
    contributions: npt.NDArray[np.float32]

    def one_by_one(self, card: RowCard) -> list[Anomaly]:
        """Return what each row means."""
        names = [feature.name for feature in card.input.features]
        return [
            Anomaly(is_anomaly, score, self.threshold, confidence, dict(zip(names, contributions, strict=True)))
            for is_anomaly, score, confidence, contributions in zip(
                self.are_anomalies.tolist(),
                self.scores.tolist(),
                self.confidences.tolist(),
                self.contributions.tolist(),
                strict=True,
            )
        ]


def detect(errors: npt.NDArray[np.float32], card: RowCard, *, threshold: float | None = None) -> Anomaly:
    """Judge one row of squared errors, shape (features,) float32, by the card's threshold or by another one above 0."""
    return detect_rows(errors[None], card, threshold=threshold).one_by_one(card)[0]


def detect_rows(errors: npt.NDArray[np.float32], card: RowCard, *, threshold: float | None = None) -> Anomalies:
    """Judge rows of squared errors, shape (N, features) float32, by the card's threshold or by another one above 0."""
    limit = (card.threshold or 0.0) if threshold is None else threshold
    scores = errors.astype(np.float64).mean(axis=1)
    return Anomalies(scores > limit, scores, limit, np.minimum(np.abs(scores - limit) / limit, 1.0), errors)
