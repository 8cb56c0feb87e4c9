"""How good a binary classifier is: figures with bootstrap intervals. Needs scikit-learn (the `dev` extra)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.metrics import fbeta_score, roc_auc_score, roc_curve

Labels = npt.NDArray[np.int64]
Scores = npt.NDArray[np.float64]
Figure = Callable[[Labels, Scores], float]


def auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve, [0, 1]; NaN where only one class is there."""
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def sensitivity(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """Share of the positives that are called at `score >= threshold`."""
    return float((scores[labels == 1] >= threshold).mean())


def specificity(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """Share of the negatives that are not called at `score >= threshold`."""
    return float((scores[labels == 0] < threshold).mean())


def f2(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """F-measure that weighs recall twice as much as precision (van Rijsbergen 1979), [0, 1]."""
    return float(fbeta_score(labels, scores >= threshold, beta=2))


def sensitivity_at_specificity(labels: Labels, scores: Scores, wanted: float = 0.95) -> float:
    """The highest sensitivity of any threshold whose specificity is at least `wanted`."""
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, scores)
    return float(true_positive_rate[false_positive_rate <= 1.0 - wanted].max())


def expected_calibration_error(labels: Labels, scores: Scores, bins: int = 15) -> float:
    """Mean |observed rate - mean score| over equal-width bins, weighted by their counts (Guo et al. 2017), [0, 1]."""
    index = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = [
        (index == each).mean() * abs(labels[index == each].mean() - scores[index == each].mean())
        for each in np.unique(index)
    ]
    return float(sum(gaps))


def interval(figure: Figure, labels: Labels, scores: Scores, *, resamples: int = 1000, seed: int = 0) -> list[float]:
    """95 % percentile bootstrap interval [low, high] of a figure (Efron & Tibshirani 1993), classes kept in share."""
    rng = np.random.default_rng(seed)
    positives, negatives = np.flatnonzero(labels == 1), np.flatnonzero(labels == 0)
    values = []
    for _ in range(resamples):
        rows = np.concatenate([rng.choice(positives, len(positives)), rng.choice(negatives, len(negatives))])
        values.append(figure(labels[rows], scores[rows]))
    low, high = np.percentile(values, [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]
