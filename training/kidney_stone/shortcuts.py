"""What can be scored on real slices without looking at a stone: baselines that a model's figures stand beside."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from training import metrics
from training.kidney_stone.canvas import UInt8Array

BINS = 32
FOLDS = 5

Vectors = npt.NDArray[np.float32]
"""Shape (N, d)."""


def histograms(pictures: Sequence[UInt8Array]) -> Vectors:
    """Return the logarithms of each picture's histogram of grey values, shape (N, BINS)."""
    shares = [np.histogram(picture, BINS, (0, 256))[0] / picture.size for picture in pictures]
    return np.log(np.stack(shares) + 1e-4).astype(np.float32)


def histogram_auc(
    train: Sequence[UInt8Array], train_labels: metrics.Labels, test: Sequence[UInt8Array], test_labels: metrics.Labels
) -> float:
    """Return the AUC of a logistic regression on the pictures' histograms of grey values alone."""
    features = histograms(train)
    mean, std = features.mean(axis=0), features.std(axis=0) + 1e-6
    model = LogisticRegression(C=0.1, max_iter=2000, class_weight="balanced")
    model.fit((features - mean) / std, train_labels)
    return metrics.auc(test_labels, model.decision_function((histograms(test) - mean) / std))


def neighbour_auc(vectors: Vectors, labels: metrics.Labels, groups: npt.NDArray[np.str_], *, by_group: bool) -> float:
    """Return the AUC of copying the label of the most similar picture in the other folds.

    It knows nothing of stones; what it scores where a split is by picture is what the split gives away.

    Args:
        vectors: a picture each, whose dot products are correlations.
        labels: shape (N,).
        groups: name of each picture's scan, shape (N,).
        by_group: whether scans, or else single pictures, are divided among the folds.
    """
    names, group_of = np.unique(groups, return_inverse=True)
    units = group_of if by_group else np.arange(len(labels))
    unit_labels = np.array([labels[group_of == index][0] for index in range(len(names))]) if by_group else labels
    scores = np.zeros(len(labels))
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    for _, held_out in folds.split(unit_labels, unit_labels):
        inside = np.isin(units, held_out)
        similarity = vectors[inside] @ vectors[~inside].T
        nearest_of = [similarity[:, labels[~inside] == label].max(axis=1) for label in (0, 1)]
        scores[inside] = nearest_of[1] - nearest_of[0]
    return metrics.auc(labels, scores)
