"""Figures of real slices: against each other kind and in each view, with intervals by scan."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from training import metrics
from training.kidney_stone.slices import KINDS, VIEWS, Slice

Figures = dict[str, metrics.Metric]
Measured = dict[str, Any]
"""Figures by name, with the interval of each under `NAME_ci95`."""


class ScoredSlices(NamedTuple):
    """Slices with their scores.

    Attributes:
        slices: N slices.
        scores: P(stone), shape (N,).
    """

    slices: Sequence[Slice]
    scores: metrics.Scores

    @property
    def labels(self) -> metrics.Labels:
        """Labels of the slices' scans, shape (N,)."""
        return np.array([item.label for item in self.slices], np.int64)

    @property
    def scans(self) -> npt.NDArray[np.str_]:
        """Names of the slices' scans, shape (N,)."""
        return np.array([item.scan for item in self.slices])

    def select(self, rows: npt.NDArray[np.bool_]) -> "ScoredSlices":
        """Return the slices at which `rows`, shape (N,), is True."""
        return ScoredSlices([self.slices[index] for index in np.flatnonzero(rows).tolist()], self.scores[rows])


def rates(threshold: float) -> Figures:
    """Return AUC, and sensitivity and specificity at a threshold, as functions of labels and scores."""
    return {
        "auc": metrics.auc,
        "sensitivity": lambda labels, scores: metrics.sensitivity(labels, scores, threshold),
        "specificity": lambda labels, scores: metrics.specificity(labels, scores, threshold),
    }


def measure(figures: Figures, scored: ScoredSlices, *, resamples: int = 1000) -> Measured:
    """Return figures with their intervals by scan, and how many slices and scans they are of."""
    labels, scores, scans = scored.labels, scored.scores, scored.scans
    rows: Measured = {}
    for name, metric in figures.items():
        rows[name] = round(metric(labels, scores), 4)
        rows[f"{name}_ci95"] = metrics.bootstrap_interval(metric, labels, scores, groups=scans, resamples=resamples)
    counts = {
        "n": len(labels),
        "positives": int(labels.sum()),
        "scans": len(set(scans)),
        "positive_scans": len(set(scans[labels == 1])),
    }
    return rows | counts


def strata(scored: ScoredSlices, threshold: float, *, resamples: int = 1000) -> dict[str, Measured]:
    """Return AUC and rates of stones against each other kind, and of all slices of each view.

    A stratum without slices of both labels is left out.
    """
    kinds = np.array([item.kind for item in scored.slices])
    views = np.array([item.view for item in scored.slices])
    parts = {f"against={kind}": (kinds == "stone") | (kinds == kind) for kind in KINDS if kind != "stone"}
    parts |= {f"view={view}": views == view for view in VIEWS}
    labels = scored.labels
    return {
        name: measure(rates(threshold), scored.select(rows), resamples=resamples)
        for name, rows in parts.items()
        if len(set(labels[rows])) == 2
    }


def auc_without_each_scan(scored: ScoredSlices) -> dict[str, float]:
    """Return, for each scan of stones, the AUC of all other slices: whether one scan decides the figure."""
    stones = np.unique(scored.scans[scored.labels == 1])
    rest = {scan: scored.select(scored.scans != scan) for scan in stones.tolist()}
    return {scan: round(metrics.auc(part.labels, part.scores), 4) for scan, part in rest.items()}
