"""Metrics of binary classifiers, with bootstrap intervals. They need scikit-learn (the `dev` extra)."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from sklearn.metrics import fbeta_score, roc_auc_score, roc_curve

Labels = npt.NDArray[np.int64]
"""Shape (N,), 1 for positive items and 0 for negative ones."""
Scores = npt.NDArray[np.float64]
"""Probability of the positive class, shape (N,), in [0, 1]."""
Metric = Callable[[Labels, Scores], float]


def auc(labels: Labels, scores: Scores) -> float:
    """Return the area under the ROC curve, in [0, 1]; NaN if the labels are all the same."""
    return float(roc_auc_score(labels, scores)) if 0 < labels.sum() < len(labels) else float("nan")


def sensitivity(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """Return the share of the positive items whose score is at least `threshold`."""
    return float((scores[labels == 1] >= threshold).mean())


def specificity(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """Return the share of the negative items whose score is below `threshold`."""
    return float((scores[labels == 0] < threshold).mean())


def f2(labels: Labels, scores: Scores, threshold: float = 0.5) -> float:
    """Return the F-measure that weighs recall twice as much as precision (van Rijsbergen 1979), in [0, 1]."""
    return float(fbeta_score(labels, scores >= threshold, beta=2))


def sensitivity_at_specificity(labels: Labels, scores: Scores, minimum: float = 0.95) -> float:
    """Return the highest sensitivity of any threshold whose specificity is at least `minimum`."""
    false_positive_rate, true_positive_rate, _ = roc_curve(labels, scores)
    return float(true_positive_rate[false_positive_rate <= 1.0 - minimum].max())


def expected_calibration_error(labels: Labels, scores: Scores, bins: int = 15) -> float:
    """Return the mean |observed rate - mean score| over bins of equal width, weighted by their counts, in [0, 1].

    Source: Guo et al. 2017.
    """
    bin_of_item = np.minimum((scores * bins).astype(int), bins - 1)
    gaps = []
    for index in np.unique(bin_of_item):
        inside = bin_of_item == index
        gaps.append(inside.mean() * abs(labels[inside].mean() - scores[inside].mean()))
    return float(sum(gaps))


def highest_threshold(labels: Labels, scores: Scores, sensitivity: float) -> float:
    """Return the highest threshold at which at least this share of the positive items is found."""
    ranked = np.sort(scores[labels == 1])
    return float(ranked[int(np.floor(len(ranked) * (1.0 - sensitivity) + 1e-9))])


def bootstrap_interval(
    metric: Metric,
    labels: Labels,
    scores: Scores,
    *,
    groups: npt.NDArray[np.str_] | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> list[float]:
    """Return the 95 % percentile bootstrap interval [low, high] of a metric (Efron & Tibshirani 1993).

    Positive and negative items are resampled separately, so that their shares stay about as they are.

    Args:
        metric: computed of each resample; where it is NaN, the resample does not count.
        labels: shape (N,).
        scores: shape (N,).
        groups: name of the group of each item, shape (N,). Whole groups are resampled, since items of one, such as
            slices of a scan, resemble each other; None stands for items that are independent.
        resamples: how many resamples are drawn.
        seed: of the random choices.
    """
    rng = np.random.default_rng(seed)
    names = np.arange(len(labels)) if groups is None else groups
    rows_of = {
        label: [np.flatnonzero((names == name) & (labels == label)) for name in np.unique(names[labels == label])]
        for label in (0, 1)
    }
    values = []
    for _ in range(resamples):
        drawn = [rows[index] for rows in rows_of.values() for index in rng.integers(len(rows), size=len(rows))]
        chosen = np.concatenate(drawn)
        values.append(metric(labels[chosen], scores[chosen]))
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]
